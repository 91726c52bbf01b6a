"""What a policy's output in [-1, 1]^2 means on the board: the pixel that the agent is sent to."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class ActionDecoder:
    """Turns normalised actions into targets.

    `absolute`: [-1, 1] spans the board, [0, 512]; a small change of the output is a long way for the agent.
    `relative`: the target lies at most `bound` pixels from the agent in x and in y, clipped to the board.
    """

    mode: Literal["absolute", "relative"] = "relative"
    bound: float = 80.0

    def __call__(self, actions: np.ndarray, agent_pos: np.ndarray) -> np.ndarray:
        """Normalised actions (n, 2), positions (n, 2) in pixels -> targets (n, 2) in pixels, in [0, 512]."""
        if self.mode == "absolute":
            return (actions + 1.0) * 256.0
        return np.clip(agent_pos + self.bound * actions, 0.0, 512.0)
