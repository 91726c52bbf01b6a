"""What a policy's output in [-1, 1]^2 means on the board: the pixel that the agent is sent to."""

from dataclasses import dataclass
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class ActionDecoder:
    """Turns normalised actions into targets.

    `absolute`: [-1, 1] spans the board, [0, 512]; a small change of the output is a long way for the agent.
    `relative`: the target lies at most `bound` pixels from the agent in x and in y, clipped to the board.

    Either way the target moves at most `max_step` pixels from one decision to the next; 0 sets no limit.
    """

    mode: Literal["absolute", "relative"] = "relative"
    bound: float = 80.0
    max_step: float = 0.0

    def __call__(self, actions: np.ndarray, agent_pos: np.ndarray, last_target: np.ndarray) -> np.ndarray:
        """Where the agents are sent.

        Args:
            actions: (n, 2) normalised.
            agent_pos: (n, 2) pixels.
            last_target: (n, 2) pixels, where they were sent last; at an episode's start where they are.

        Returns:
            targets (n, 2) in pixels, in [0, 512].
        """
        if self.mode == "absolute":
            targets = (actions + 1.0) * 256.0
        else:
            targets = np.clip(agent_pos + self.bound * actions, 0.0, 512.0)
        if not self.max_step:
            return targets
        step = targets - last_target
        length = np.linalg.norm(step, axis=1, keepdims=True)
        return last_target + step * np.minimum(1.0, self.max_step / np.maximum(length, 1e-9))
