"""How a deterministic policy gets away from where it is stuck.

The mode of a trained actor is a deterministic policy: where it once stands still, or goes to and fro, it does
so until time is up. A sample of the actor's own distribution gets it out. So when what must move in a task
(`Task.must_move`) has rested for `PATIENCE` decisions, noise is added to the mode, more the longer it rests.
The noise is a function of the episode alone, so an episode can still be repeated.

`PATIENCE` was tuned on a task nearly all of whose failures are of this kind: docs/results.md has the
measurement ("Where the mode gets stuck").
"""

import numpy as np

from envs.interfaces import Motion, RawObservation

PATIENCE = 20  # decisions without a motion; what a policy does on purpose takes fewer
_NOISE_ROWS = 64


class Escape:
    """Counts for how long nothing has moved, and draws the noise that is added then.

    Args:
        motion: what has to move.
        action_size: A.
    """

    def __init__(self, motion: Motion, action_size: int) -> None:
        self.motion = motion
        self._noise = np.random.default_rng(0).standard_normal((_NOISE_ROWS, action_size), np.float32)
        self._before = np.empty(0)
        self._still = np.empty(0, np.int64)  # decisions

    def noise(self, raw: RawObservation, begins: np.ndarray, decides: np.ndarray) -> np.ndarray | None:
        """Standard normal noise that grows with the time, (n, A); 0 for slots that move, None where all do.

        Args:
            raw: before a decision.
            begins: (n,) bool, slots whose episode begins.
            decides: (n,) bool, slots whose decision is due.
        """
        now = raw[self.motion.observation].reshape(len(begins), -1)
        if now.shape != self._before.shape:
            self._before, self._still = np.full(now.shape, np.nan), np.zeros(len(now), np.int64)
        moved = begins | ~(np.abs(now - self._before) < self.motion.least).all(axis=1)
        self._still = np.where(moved, 0, self._still + decides)
        self._before = np.where(decides[:, None], now, self._before)
        stuck = self._still >= PATIENCE
        if not stuck.any():
            return None
        rows = self._noise[(self._still - PATIENCE) % _NOISE_ROWS]
        return np.where(stuck, self._still / PATIENCE, 0.0).astype(np.float32)[:, None] * rows
