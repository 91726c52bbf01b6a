"""The latest raw observations of each slot, for policies that see more than the current one."""

import numpy as np

from envs.interfaces import RawObservation


def frames_seen(frames: np.ndarray, history: int) -> np.ndarray:
    """Which frames of an episode a policy sees at `frames` (k,): (k, history), oldest first; of 1 (k,)."""
    return frames if history == 1 else np.maximum(frames[:, None] + np.arange(1 - history, 1), 0)


class History:
    """The latest `length` raw observations of n slots, oldest first.

    An episode's first observation stands for those before it.
    """

    def __init__(self, length: int) -> None:
        self.length = length
        self.observations: RawObservation = {}  # (n, length, ...) each

    def add(self, raw: RawObservation, begins: np.ndarray, moved: np.ndarray | None = None) -> RawObservation:
        """Take what the slots show now, (n, ...) each; returns `observations`.

        Args:
            raw: of all slots.
            begins: (n,) bool, slots whose episode begins.
            moved: (n,) bool, slots that took a step; None: all.
        """
        moved = np.ones(len(begins), bool) if moved is None else moved
        for name, values in raw.items():
            first = np.repeat(values[:, None], self.length, axis=1)
            before = self.observations.get(name, first)
            after = np.concatenate([before[:, 1:], values[:, None]], axis=1)
            each = (-1, *[1] * values.ndim)
            kept = np.where(moved.reshape(each), after, before)
            self.observations[name] = np.where(begins.reshape(each), first, kept)
        return self.observations
