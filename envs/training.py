"""PushT as a learner sees it: features in, normalised actions out, a shaped reward, starts near the goal.

Nothing here exists in evaluation, where policies play raw observations and the stock reward (`rollout.py`).
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from envs.pusht.actions import ActionDecoder
from envs.pusht.observations import check_features, feature_size, features
from envs.pusht.rewards import REWARDS, Transition
from envs.pusht.symmetry import Symmetry, mirror
from envs.pusht.vector import PushTVectorEnv


@dataclass(frozen=True)
class EnvConfig:
    """The task as the agent meets it in training."""

    num_envs: int = 32  # PushTs stepped together
    features: tuple[str, ...] = (  # what the policy sees, see envs/pusht/observations.py
        "agent_pos",
        "block_pos",
        "block_rotation",
        "agent_in_block_frame",
        "agent_fourier_in_block_frame",
        "agent_vel_in_block_frame",
        "goal_in_block_frame",
        "goal_error",
    )
    action_mode: Literal["absolute", "relative", "delta"] = "relative"  # see envs/pusht/actions.py
    action_bound: float = 100.0  # px in x and in y, away from the agent or from the last target
    action_frame: Literal["board", "block"] = (
        "block"  # whose x and y an action means, see envs/pusht/actions.py
    )
    action_repeat: int = 1  # environment steps per decision, the target held
    speed_limit: tuple[float, float] | None = None  # px that a target moves at most, at first and in the end
    speed_ramp: tuple[int, int] = (0, 1)  # env steps between which the one becomes the other
    reward: Literal["stock", "linear", "log_barrier", "progress"] = "log_barrier"  # see envs/pusht/rewards.py
    reward_scale: float = 0.1  # multiplies reward and bonus
    success_bonus: float = 5.0  # added on the step that succeeds
    mirror: bool = True  # learn from every other transition as its mirror image, see envs/pusht/symmetry.py
    curriculum: float = 0.5  # share of episodes that start near the goal
    curriculum_angle: float = 0.8  # rad, one sigma of the block's angle about the goal in such a start
    curriculum_distance: float = 70.0  # px, one sigma of its position

    def validate(self) -> None:
        check_features(self.features)
        if self.action_mode == "absolute" and self.action_frame == "block":
            raise ValueError("action_frame must be board with absolute actions, got block")
        if self.mirror:
            mirror(self.features, self.action_frame)
        for name in ("num_envs", "action_bound", "action_repeat", "reward_scale"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.speed_limit and min(self.speed_limit) <= 0:
            raise ValueError(f"speed_limit must be positive, got {self.speed_limit}")
        if not 0 <= self.speed_ramp[0] < self.speed_ramp[1]:
            raise ValueError(f"speed_ramp must be two rising counts, got {self.speed_ramp}")
        if not 0.0 <= self.curriculum <= 1.0:
            raise ValueError(f"curriculum must be between 0 and 1, got {self.curriculum}")

    def decoder(self, env_steps: float = math.inf) -> ActionDecoder:
        """What actions mean after so many environment steps of training; without a number, in the end."""
        limit = None
        if self.speed_limit:
            limit = float(np.interp(env_steps, self.speed_ramp, self.speed_limit))
        return ActionDecoder(self.action_mode, self.action_bound, self.action_frame, limit)


class TrainingEnv:
    """`config.num_envs` PushTs for an off-policy learner.

    Observations (n, D) float32; actions (n, 2) in [-1, 1]; rewards (n,) shaped. Each episode's seed is drawn
    here, from a generator of our own, and so is a start near the goal.
    """

    def __init__(self, config: EnvConfig, seed: int) -> None:
        self.config = config
        self.num_envs = config.num_envs
        self.observation_size = feature_size(config.features)
        self.action_size = 2
        self.symmetry: Symmetry | None = (
            mirror(config.features, config.action_frame) if config.mirror else None
        )
        self.env = PushTVectorEnv(config.num_envs)
        self.rng = np.random.default_rng(seed)
        self.env_steps = 0  # taken by all environments together
        self.seeds = np.zeros(config.num_envs, np.int64)
        self.start_states = np.full((config.num_envs, 5), np.nan)  # NaN: the seed's own start
        self.returns = np.zeros(config.num_envs)  # stock reward of the running episodes
        self.last_target = np.zeros((config.num_envs, 2))  # at an episode's start where the agent is
        self._targets: list[list[np.ndarray]] = [[] for _ in range(config.num_envs)]  # of those too
        self._raw: dict[str, np.ndarray] = {}
        self._reward = REWARDS[config.reward]

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        """Begin new episodes where `mask` (n,) says so, everywhere without one; returns all observations."""
        mask = np.ones(self.num_envs, bool) if mask is None else mask
        for i in np.flatnonzero(mask):
            self.seeds[i] = self.rng.integers(2**30, 2**31)  # none that anyone evaluates or records
            near_goal = self.rng.random() < self.config.curriculum
            self.start_states[i] = self._start_near_goal() if near_goal else np.nan
            self._targets[i] = []
        self.returns[mask] = 0.0
        options = {"reset_mask": mask, "states": self.start_states}
        self._raw, _ = self.env.reset(seed=self.seeds, options=options)
        self.last_target[mask] = self._raw["agent_pos"][mask]
        return self._features()

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """One decision: `action_repeat` environment steps towards the same targets.

        Returns:
            observations (n, D), an ended episode's last among them; rewards (n,) summed over the repeats;
            terminated (n,); truncated (n,); infos: `env_steps` of all environments since the beginning,
            `return` (n,) of the stock reward since each episode's start, `usual_start` (n,) whether that was
            the stock start rather than one near the goal.
        """
        decoder = self.config.decoder(self.env_steps)
        targets = decoder(actions, self._raw | {"last_target": self.last_target})
        rewards = np.zeros(self.num_envs)
        terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
        for _ in range(self.config.action_repeat):
            active = self.env.active.copy()
            self.env_steps += int(active.sum())
            for i in np.flatnonzero(active):
                self._targets[i].append(targets[i])
            before = self._raw
            self._raw, stock_rewards, succeeded, timed_out, _ = self.env.step(targets)
            transition = Transition(before, self._raw, stock_rewards, self.env.goal_keypoints)
            rewards += active * self._reward(transition) + self.config.success_bonus * succeeded
            self.returns += stock_rewards
            terminated |= succeeded
            truncated |= timed_out
        self.last_target = targets.copy()
        infos = {
            "env_steps": self.env_steps,
            "return": self.returns.copy(),
            "usual_start": np.isnan(self.start_states[:, 0]),
        }
        return self._features(), self.config.reward_scale * rewards, terminated, truncated, infos

    def state_dict(self) -> tuple[dict, dict[str, np.ndarray]]:
        """How the running episodes began and every target since: enough to bring the simulators back exactly.

        Returns:
            what JSON can hold, and arrays.
        """
        arrays = {
            "seeds": self.seeds.copy(),
            "start_states": self.start_states.copy(),
            "returns": self.returns.copy(),
            "last_target": self.last_target.copy(),
            "lengths": np.array([len(targets) for targets in self._targets]),
            "targets": np.concatenate([np.reshape(targets, (-1, 2)) for targets in self._targets]),
        }
        return {"rng": self.rng.bit_generator.state, "env_steps": self.env_steps}, arrays

    def load_state_dict(self, state: dict, arrays: dict[str, np.ndarray]) -> np.ndarray:
        """Play the episodes of `state_dict` again up to where they were; returns their observations."""
        self.rng.bit_generator.state, self.env_steps = state["rng"], state["env_steps"]
        self.seeds, self.returns = arrays["seeds"].copy(), arrays["returns"].copy()
        self.start_states, self.last_target = arrays["start_states"].copy(), arrays["last_target"].copy()
        lengths = arrays["lengths"]
        self._targets = [list(targets) for targets in np.split(arrays["targets"], np.cumsum(lengths)[:-1])]
        self.env.reset(seed=self.seeds, options={"states": self.start_states})
        for t in range(lengths.max()):
            targets = [played[t] if t < len(played) else np.zeros(2) for played in self._targets]
            self.env.advance(np.array(targets), lengths > t)
        self._raw = self.env.observations()
        return self._features()

    def _features(self) -> np.ndarray:
        return features(self._raw | {"last_target": self.last_target}, self.config.features)

    def _start_near_goal(self) -> np.ndarray:
        """A start state (5,): the T near its place, how near is random too, and the agent clear of it."""
        scale = self.rng.uniform(0.05, 1.0)
        position = 256.0 + self.config.curriculum_distance * scale * self.rng.normal(size=2)
        angle = np.pi / 4 + self.config.curriculum_angle * scale * self.rng.normal()
        while True:
            agent = self.rng.uniform(50.0, 450.0, size=2)
            if np.linalg.norm(agent - position) > 140.0:  # the far end of the stem, 120 px, and the agent
                return np.array([*agent, *position, angle])
