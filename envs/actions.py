"""What a policy's output in [-1, 1]^2 means on the board: the pixel that the agent is sent to."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class ActionDecoder:
    """Turns normalised actions into targets.

    `absolute`: [-1, 1] spans the board, [0, 512]; a small change of the output is a long way for the agent.
    `relative`: the target lies at most `bound` pixels from the agent in x and in y, clipped to the board.
    `delta`: the target lies at most `bound` pixels from the last target, so that it moves smoothly.
    """

    mode: Literal["absolute", "relative", "delta"] = "relative"
    bound: float = 80.0

    def __call__(self, actions: np.ndarray, raw: dict[str, np.ndarray]) -> np.ndarray:
        """Normalised actions (n, 2) -> targets (n, 2) in pixels, in [0, 512]."""
        if self.mode == "absolute":
            return (actions + 1.0) * 256.0
        origin = raw["agent_pos" if self.mode == "relative" else "last_target"]
        return np.clip(origin + self.bound * actions, 0.0, 512.0)
