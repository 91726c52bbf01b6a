"""Many PushTs behind Gymnasium's vector interface, stepped by one compiled call.

An episode's seed is always the caller's: there is no autoreset (Gymnasium's `AutoresetMode.DISABLED`). An
environment whose episode has ended stays as it is until a `reset_mask` names it; its rewards are 0 meanwhile.

Observations are *raw*: a dict of everything the simulator offers, the same from the fast and the stock
environment. What a policy makes of it is the policy's business (`observations.py`).
"""

from collections.abc import Sequence
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pymunk
from gym_pusht.envs.pusht import PushTEnv as StockPushTEnv
from gymnasium import spaces
from gymnasium.vector.utils import batch_space

from envs.interfaces import Infos, RawObservation
from envs.pusht import physics
from envs.pusht.observations import BOARD_PX
from envs.pusht.simulator import PushTEnv, goal_rectangles, tee_rectangles
from envs.pusht.starts import starts

MAX_EPISODE_STEPS = 300  # 30 s at 10 Hz, as gym-pusht registers it


class PushTVectorEnv(gymnasium.vector.VectorEnv):
    """`num_envs` PushTs (`envs.pusht.simulator`), stepped by one compiled call.

    Args:
        num_envs: how many.
        image_size: side in pixels of the square pictures in the observations; 0 leaves them out.
        max_episode_steps: truncation, in environment steps.
        hold: further steps for which the T has to stay on its place before an episode ends.

    Observations, a dict of arrays with one row per environment:
        agent_pos (n, 2) and agent_vel (n, 2): pixels and pixels per second.
        block_pose (n, 3): x, y in pixels and the unwrapped angle in radians.
        keypoints (n, 8, 2): the corners of the T's two rectangles, pixels.
        pixels (n, side, side, 3) uint8 RGB: when asked for.

    Actions (n, 2): where to send each agent, pixels. Infos: `progress`, the coverage of the goal, and
    `is_success`, (n,) each. What is assigned to the first of `envs` (`k_p`, `k_v`, `dt`, the threshold of
    success) counts for all.
    """

    env_class: ClassVar[type] = PushTEnv

    def __init__(
        self,
        num_envs: int,
        image_size: int = 0,
        max_episode_steps: int = MAX_EPISODE_STEPS,
        hold: int = 0,
    ) -> None:
        self.metadata = {"autoreset_mode": gymnasium.vector.AutoresetMode.DISABLED}
        self.num_envs = num_envs
        self.image_size = image_size
        self.max_episode_steps = max_episode_steps
        self.hold = hold
        size = {"observation_width": image_size, "observation_height": image_size}
        self.envs = [self.env_class(**size) for _ in range(num_envs)]
        for env in self.envs:
            env.reset(seed=0)  # so that there is something to look at before an environment's first episode
        self.single_action_space = self.envs[0].action_space
        self.single_observation_space = _raw_observation_space(image_size)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self.observation_space = batch_space(self.single_observation_space, num_envs)

        self.active = np.zeros(num_envs, bool)  # episodes that have begun and not ended
        self.watched = np.ones(num_envs, bool)  # whose pictures are drawn after the next step
        self.steps = np.zeros(num_envs, np.int64)  # taken in the current episode
        self.on_place = np.zeros(num_envs, np.int64)  # of the latest of them, with the T on its place
        self._targets = np.full((num_envs, 2), np.nan)  # of the latest actions, which frames mark
        self._states = np.zeros((num_envs, physics.STATE_SIZE))
        self._coverages = np.zeros(num_envs)
        self._addresses = np.zeros((num_envs, 6), np.int64)
        self._spaces: list[pymunk.Space | None] = [None] * num_envs  # whose addresses these are
        self._pixels = np.zeros((num_envs, image_size, image_size, 3), np.uint8)
        self._rectangles = tee_rectangles(self.envs[0]), goal_rectangles(self.envs[0])
        self.goal_keypoints = self._rectangles[1].reshape(8, 2)  # pixels
        self._draw(np.ones(num_envs, bool))

    def reset(  # pyright: ignore[reportIncompatibleMethodOverride]  # every seed is the caller's
        self, *, seed: Sequence[int] | np.ndarray, options: dict[str, Any] | None = None
    ) -> tuple[RawObservation, Infos]:
        """Begin new episodes, each with the seed given for it.

        Args:
            seed: one per environment; only those in the mask are read.
            options: `reset_mask` (n,) bool, all by default; `states` (n, 5 or 7), see `PushTEnv.set_state`:
                start states that replace the seed's in the rows without NaN.

        Returns:
            observations and infos of all environments.
        """
        options = options or {}
        mask = options.get("reset_mask", np.ones(self.num_envs, bool))
        states = options.get("states", np.full((self.num_envs, 5), np.nan))
        of_seed = np.flatnonzero(mask & np.isnan(states).any(axis=1))
        every: list[int] = list(seed)
        self._begin(of_seed, [every[i] for i in of_seed])
        for i in np.flatnonzero(mask):
            env = self.envs[i]
            if not np.isnan(states[i]).any():
                PushTEnv.set_state(env, states[i].tolist())
            if self._spaces[i] is not env.space:  # ours keep theirs
                self._spaces[i] = env.space
                self._addresses[i] = physics.addresses(env.space, env.agent, env.block)
        self._observe(mask)
        self._draw(mask)
        self.active |= mask
        self.steps[mask] = self.on_place[mask] = 0
        self._targets[mask] = np.nan
        return self.observations(), self.infos()

    def step(self, actions: np.ndarray) -> tuple[RawObservation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        actions = np.array(actions, np.float64)
        if actions.shape != (self.num_envs, 2):
            raise ValueError(f"actions: expected shape ({self.num_envs}, 2), got {actions.shape}")
        active = self.active.copy()
        self._simulate(actions, active)
        self._targets[active] = actions[active]
        self.steps += active
        infos = self.infos()
        self.on_place = np.where(active, np.where(infos["is_success"], self.on_place + 1, 0), self.on_place)
        rewards = np.where(active, np.minimum(self._coverages / self.envs[0].success_threshold, 1.0), 0.0)
        terminated = active & (self.on_place > self.hold)
        truncated = active & ~terminated & (self.steps >= self.max_episode_steps)
        self.active = active & ~terminated & ~truncated
        self._draw(active & (self.watched | ~self.active))
        return self.observations(), rewards, terminated, truncated, infos

    def _begin(self, slots: np.ndarray, seeds: Sequence[int]) -> None:
        """Put the simulators of these slots where the episodes of the seeds begin."""
        for i, start in zip(slots, starts(seeds).tolist(), strict=True):
            self.envs[i].begin(start)

    def _simulate(self, targets: np.ndarray, active: np.ndarray) -> None:
        """Move the simulators of the active environments one step on."""
        env = self.envs[0]
        physics.control_steps(
            physics.SPACE_STEP,
            self._addresses,
            targets,
            active,
            env.gains,
            env.substeps,
            env.dt,
            *self._rectangles,
            self._states,
            self._coverages,
        )

    def _observe(self, chosen: np.ndarray) -> None:
        """Read the simulators of the chosen environments, (n,) bool."""
        physics.observe(self._addresses, chosen, *self._rectangles, self._states, self._coverages)

    def observations(self) -> RawObservation:
        """The raw observations of all environments, see the class."""
        observations = {
            "agent_pos": self._states[:, physics.AGENT_POS].copy(),
            "agent_vel": self._states[:, physics.AGENT_VEL].copy(),
            "block_pose": self._states[:, physics.BLOCK_POSE].copy(),
            "keypoints": physics.keypoints(self._states, self._rectangles[0]),
        }
        if self.image_size:
            observations["pixels"] = self._pixels.copy()
        return observations

    def _draw(self, chosen: np.ndarray) -> None:
        """Draw the pictures of the chosen environments, (n,) bool: the others have not moved."""
        for i in np.flatnonzero(chosen) if self.image_size else ():
            self._pixels[i] = self.envs[i]._render()

    def frames(self, size: int, slots: np.ndarray) -> np.ndarray:
        """Pictures (len(slots), size, size, 3) uint8 RGB for videos, the action's target marked."""
        frames = []
        for i in slots:
            env, target = self.envs[i], self._targets[i]
            env.visualization_width = env.visualization_height = size
            env._last_action = None if np.isnan(target[0]) else target
            frames.append(env.render())
        return np.stack(frames)

    def infos(self) -> Infos:
        """`progress` and `is_success` of all environments, (n,) each."""
        coverage = self._coverages.copy()
        return {"progress": coverage, "is_success": coverage > self.envs[0].success_threshold}


class StockPushTVectorEnv(PushTVectorEnv):
    """The same of `gym_pusht` as published, stepped one by one."""

    env_class = StockPushTEnv

    def _begin(self, slots: np.ndarray, seeds: Sequence[int]) -> None:
        for i, seed in zip(slots, seeds, strict=True):
            self.envs[i].reset(seed=int(seed))

    def _simulate(self, targets: np.ndarray, active: np.ndarray) -> None:
        for i in np.flatnonzero(active):
            self._coverages[i] = self.envs[i].step(targets[i])[-1]["coverage"]
            physics.read_state(self._addresses[i], self._states[i])

    def _observe(self, chosen: np.ndarray) -> None:
        for i in np.flatnonzero(chosen):
            physics.read_state(self._addresses[i], self._states[i])
            self._coverages[i] = self.envs[i]._get_coverage()


def _raw_observation_space(image_size: int) -> spaces.Dict:
    parts: dict[str, spaces.Space] = {
        "agent_pos": spaces.Box(0.0, BOARD_PX, (2,), np.float64),
        "agent_vel": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        "block_pose": spaces.Box(-np.inf, np.inf, (3,), np.float64),
        "keypoints": spaces.Box(-np.inf, np.inf, (8, 2), np.float64),
    }
    if image_size:
        parts["pixels"] = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
    return spaces.Dict(parts)
