"""A task as an off-policy learner sees it: network inputs, actions in [-1, 1], its own reward and starts.

Nothing here exists in evaluation, where policies play raw observations and the task's own reward.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.history import History
from envs.interfaces import Infos, Observations, RawObservation, Step, Symmetry, Task, VectorEnv

Reward = Callable[[RawObservation, RawObservation, np.ndarray, np.ndarray], np.ndarray]
Start = Callable[[np.random.Generator], np.ndarray]


def own_reward(
    before: RawObservation, after: RawObservation, rewards: np.ndarray, succeeded: np.ndarray
) -> np.ndarray:
    """The task's reward as it is."""
    return rewards


def own_start(rng: np.random.Generator) -> np.ndarray:
    """The start that the seed makes."""
    return np.full(1, np.nan)


class TaskTrainingEnv:
    """`task.num_envs` environments for an off-policy learner, see `envs.interfaces.TrainingEnv`.

    Each episode's seed is drawn here, from a generator of our own.

    Args:
        task: gives the codec and the action repeat.
        env: the task's, of `task.num_envs` slots.
        seed: of the episodes' seeds and starts.
        gamma: discount per environment step, within a decision.
        reward: (before, after, the task's reward, succeeded) of one environment step -> (n,).
        reward_scale: multiplies it.
        start: draws a start state that `env.reset` takes in `options["states"]`; NaN for the seed's own.
        symmetry: of network inputs and outputs.
    """

    def __init__(
        self,
        task: Task,
        env: VectorEnv,
        seed: int,
        gamma: float,
        reward: Reward = own_reward,
        reward_scale: float = 1.0,
        start: Start = own_start,
        symmetry: Symmetry | None = None,
    ) -> None:
        self.env = env
        self.num_envs = env.num_envs
        self.codec = task.codec(env.num_envs)
        self.observation_size, self.action_size = self.codec.observation_size, self.codec.action_size
        self.pixel_shape, self.stack = self.codec.pixel_shape, self.codec.stack
        self.decision_steps = task.action_repeat
        self.gamma = gamma
        self.reward, self.reward_scale = reward, reward_scale
        self.start = start
        self.symmetry = symmetry
        self.rng = np.random.default_rng(seed)
        self.env_steps = 0  # taken by all environments together
        self.seeds = np.zeros(self.num_envs, np.int64)
        self.start_states = np.full((self.num_envs, *start(np.random.default_rng()).shape), np.nan)
        self.returns = np.zeros(self.num_envs)  # the task's own reward in the running episodes
        self.lengths = np.zeros(self.num_envs, np.int64)  # environment steps in these episodes
        self._actions = np.zeros((0, self.num_envs, *env.single_action_space.shape))  # of those, the task's
        self.raw: RawObservation = {}  # the latest
        self.history: History | None = None  # those before it too, for who needs them

    def reset(self, mask: np.ndarray | None = None) -> Observations:
        """Begin new episodes where `mask` (n,) says so, everywhere without one; returns all observations."""
        mask = np.ones(self.num_envs, bool) if mask is None else mask
        for i in np.flatnonzero(mask):
            self.seeds[i] = self.rng.integers(2**30, 2**31)  # never those of evaluations and datasets
            self.start_states[i] = self.start(self.rng)
        self.returns[mask] = self.lengths[mask] = 0
        self.raw, _ = self.env.reset(seed=self.seeds, options=self._options(mask))
        if self.history:
            self.history.add(self.raw, begins=mask, moved=mask)
        self.codec.reset(mask, self.raw)
        return self.codec.encode(self.raw)

    def random_actions(self, rng: np.random.Generator) -> np.ndarray:
        """Uniform actions, (n, A) float32 in [-1, 1]."""
        return rng.uniform(-1, 1, (self.num_envs, self.action_size)).astype(np.float32)

    def step(self, actions: np.ndarray) -> Step:
        """One decision: `decision_steps` environment steps with the same action.

        Args:
            actions: (n, A) in [-1, 1].
        """
        self.codec.env_steps = self.env_steps
        decided = self.codec.decode(actions, self.raw, self.env.active)
        return self.play(np.broadcast_to(decided, (self.decision_steps, *decided.shape)))

    def play(self, chunk: np.ndarray) -> Step:
        """One decision, which takes the environment steps of a chunk.

        Args:
            chunk: (T, n, A) in the task's units; an episode that ends before its T steps leaves the rest out.
        """
        rewards, durations = np.zeros(self.num_envs), np.zeros(self.num_envs, np.int64)
        terminated, truncated, is_success = np.zeros((3, self.num_envs), bool)
        infos: Infos = {}
        for t, played in enumerate(chunk, 1):
            self.env.watched[:] = t > len(chunk) - self._observations_seen
            active = self.env.active.copy()
            if not active.any():
                break
            self._remember(played, active)
            before = self.raw
            self.raw, own, ended, timed_out, infos = self.env.step(played)
            if self.history:
                self.history.add(self.raw, begins=np.zeros_like(active), moved=active)
            succeeded = active & infos.get("is_success", np.zeros(self.num_envs, bool))
            reward = active * self.reward(before, self.raw, own, succeeded)
            rewards += self.gamma**durations * reward
            durations += active
            self.returns += own
            terminated |= ended
            truncated |= timed_out
            is_success |= succeeded
        self.env_steps += int(durations.sum())
        return Step(
            observations=self.codec.encode(self.raw),
            rewards=self.reward_scale * rewards,
            terminated=terminated,
            truncated=truncated,
            durations=durations,
            is_success=is_success if "is_success" in infos else None,
            returns=np.where(np.isnan(self.start_states).any(axis=1), self.returns, np.nan),
        )

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """How the running episodes began and every action since: enough to restore the simulators exactly.

        Returns:
            what JSON can hold, and arrays.
        """
        arrays = {
            "seeds": self.seeds.copy(),
            "start_states": self.start_states.copy(),
            "returns": self.returns.copy(),
            "lengths": self.lengths.copy(),
            "actions": np.concatenate([self._actions[:n, i] for i, n in enumerate(self.lengths)]),
        }
        state = {"rng": self.rng.bit_generator.state, "env_steps": self.env_steps}
        return state, arrays | self.codec.state_dict()

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> Observations:
        """Play the episodes of `state_dict` again up to where they were; returns their observations.

        Raises:
            ValueError: it is not such a state; other errors are possible.
        """
        self.rng.bit_generator.state, self.env_steps = state["rng"], state["env_steps"]
        for name in ("seeds", "start_states", "returns"):
            if arrays[name].shape != getattr(self, name).shape:
                raise ValueError(f"env.{name} has the shape {arrays[name].shape}")
        self.seeds, self.returns = arrays["seeds"].copy(), arrays["returns"].copy()
        self.start_states = arrays["start_states"].copy()
        lengths = arrays["lengths"]
        actions = arrays["targets" if "targets" in arrays else "actions"]  # the former name
        if lengths.shape != (self.num_envs,) or lengths.min() < 0 or lengths.sum() != len(actions):
            raise ValueError("env.lengths are not those of its actions")
        if not np.isfinite(actions).all():
            raise ValueError("env.actions holds numbers that are not finite")
        self.lengths, self._actions = np.zeros_like(lengths), self._actions[:0]
        everywhere = np.ones(self.num_envs, bool)
        self.raw, _ = self.env.reset(seed=self.seeds, options=self._options(everywhere))
        if self.history:
            self.history.add(self.raw, begins=everywhere)
        begins = np.cumsum(lengths) - lengths
        for t in range(lengths.max()):
            self.env.active[:] = active = lengths > t
            self.env.watched[:] = lengths <= t + self._observations_seen
            played = actions[np.minimum(begins + t, len(actions) - 1)]
            self._remember(played, active)
            self.raw, *_ = self.env.step(played)
            if self.history:
                self.history.add(self.raw, begins=~everywhere, moved=active)
        self.env.active[:] = True
        self.codec.load_state_dict(arrays)
        return self.codec.encode(self.raw)

    @property
    def _observations_seen(self) -> int:
        """How many of the latest observations somebody looks at."""
        return self.history.length if self.history else 1

    def _remember(self, played: np.ndarray, active: np.ndarray) -> None:
        """Append the actions of the active environments, (n, A) and (n,), to those of their episodes."""
        if self.lengths.max() == len(self._actions):
            longer = np.zeros((2 * len(self._actions) + 64, *played.shape), played.dtype)
            longer[: len(self._actions)] = self._actions
            self._actions = longer
        self._actions[self.lengths[active], active] = played[active]
        self.lengths += active

    def _options(self, mask: np.ndarray) -> dict[str, np.ndarray]:
        return {"reset_mask": mask, "states": self.start_states}
