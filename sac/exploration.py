"""Temporally extended exploration: an offset on the actions of some environments, held for several decisions.

SAC's own noise is independent at every decision and averages out.
After Dabney et al. 2020, "Temporally-Extended epsilon-Greedy Exploration" (arXiv:2006.01782), where a random
action is repeated for a random time; here it is added to the policy's own actions.
"""

import numpy as np

OFFSET_RATE = 0.03  # chance per decision that an offset begins
OFFSET_STD = 0.4  # standard deviation of an offset, of actions in [-1, 1]
OFFSET_DECISIONS = (3, 15)  # decisions that it lasts, the end excluded


class Detours:
    """Adds an offset to the actions of the last `count` of `num_envs` environments from time to time.

    Args:
        rng: of all randomness here.
    """

    def __init__(self, num_envs: int, action_size: int, count: int, rng: np.random.Generator) -> None:
        self.rows = slice(num_envs - count, num_envs)
        self.offsets = np.zeros((count, action_size))
        self.left = np.zeros(count, np.int64)  # decisions for which the offset still holds
        self.rng = rng

    def __call__(self, actions: np.ndarray) -> np.ndarray:
        """Actions (num_envs, A) in [-1, 1], of which those on a detour carry their offset."""
        begins = (self.left == 0) & (self.rng.random(len(self.left)) < OFFSET_RATE)
        self.offsets[begins] = self.rng.normal(0.0, OFFSET_STD, (begins.sum(), self.offsets.shape[1]))
        self.left[begins] = self.rng.integers(*OFFSET_DECISIONS, begins.sum())
        offset_actions = actions.copy()
        offset_actions[self.rows] += np.where(self.left[:, None] > 0, self.offsets, 0.0)
        self.left = np.maximum(self.left - 1, 0)
        return np.clip(offset_actions, -1.0, 1.0)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"offsets": self.offsets.copy(), "left": self.left.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Hold what `state_dict` returned.

        Raises:
            ValueError: it is of other environments.
        """
        offsets, left = state["offsets"].copy(), state["left"].copy()
        if (offsets.shape, left.shape) != (self.offsets.shape, self.left.shape) or (left < 0).any():
            raise ValueError("detours are not those of these environments")
        self.offsets, self.left = offsets, left
