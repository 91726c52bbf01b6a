"""What a policy's output in [-1, 1]^2 means on the board: the pixel that the agent is sent to."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from envs.interfaces import RawObservation
from envs.pusht.observations import BOARD_PX, rotate


@dataclass(frozen=True)
class ActionDecoder:
    """Turns normalised actions into targets.

    `absolute`: [-1, 1] spans the board, [0, 512]; a small change of the output is a long way for the agent.
    `relative`: the target lies at most `bound` pixels from the agent in x and in y, clipped to the board.
    `delta`: the target lies at most `bound` pixels from the last target, so that it moves smoothly.

    Of the last two, x and y are the board's, or in the `block` frame the T's own: whichever way it lies, the
    same output pushes the same side. With a `speed_limit` the target then comes no further than so many
    pixels from the last target.
    """

    mode: Literal["absolute", "relative", "delta"] = "relative"
    bound: float = 80.0
    frame: Literal["board", "block"] = "board"
    speed_limit: float | None = None

    def __call__(self, actions: np.ndarray, raw: RawObservation) -> np.ndarray:
        """Normalised actions (n, 2) -> targets (n, 2) in pixels, in [0, 512].

        Args:
            raw: observations with `last_target` (n, 2) in pixels, the policy's own memory of where it sent
                the agent last; at an episode's start, where that is.
        """
        if self.mode == "absolute":
            targets = (actions + 1.0) * (BOARD_PX / 2)
        else:
            moves = self.bound * actions
            if self.frame == "block":
                moves = rotate(moves, raw["block_pose"][:, 2])
            targets = raw["agent_pos" if self.mode == "relative" else "last_target"] + moves
        if self.speed_limit is not None:
            moves = targets - raw["last_target"]
            lengths = np.linalg.norm(moves, axis=1, keepdims=True)
            targets = raw["last_target"] + moves * self.speed_limit / np.maximum(lengths, self.speed_limit)
        return np.clip(targets, 0.0, BOARD_PX)

    def encode(self, targets: np.ndarray, raw: RawObservation) -> np.ndarray:
        """Targets (n, 2) in pixels -> the normalised actions (n, 2) that lead there, if there are such."""
        if self.mode == "absolute":
            return targets / (BOARD_PX / 2) - 1.0
        moves = targets - raw["agent_pos" if self.mode == "relative" else "last_target"]
        if self.frame == "block":
            moves = rotate(moves, -raw["block_pose"][:, 2])
        return moves / self.bound
