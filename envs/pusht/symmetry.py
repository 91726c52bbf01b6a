"""Symmetries of PushT: the mirror, and rigid motions of the board as long as no wall is touched.

Mirror: the board is its own mirror image across the diagonal x + y = 512, along which the goal's stem lies.
For features and actions the mirror is a change of order and signs, so a learner can replace transitions by
their mirror images.

Rigid motion: physics are the same anywhere on the board and in any direction. An episode that ends near the
goal, moved by a few pixels and degrees, ends on it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from envs.interfaces import Symmetry
from envs.pusht.observations import BOARD_PX

if TYPE_CHECKING:
    import torch

_ON_BOARD = ([1, 0], [-1, -1])  # (x, y) -> (-y, -x), about the board's middle
_IN_BLOCK_FRAME = ([0, 1], [-1, 1])  # (x, y) -> (-x, y): the T is symmetric along its stem
_MIRRORED: dict[str, tuple[list[int], list[int]]] = {  # feature -> order and signs of its numbers
    "agent_pos": _ON_BOARD,
    "agent_vel": _ON_BOARD,
    "block_pos": _ON_BOARD,
    "block_rotation": ([1, 0], [1, 1]),  # angle -> pi / 2 - angle: cosine and sine change places
    "agent_in_block_frame": _IN_BLOCK_FRAME,
    "agent_fourier_in_block_frame": (list(range(8)), [-1, 1, 1, 1] * 2),  # sines, cosines: only sin x turns
    "agent_vel_in_block_frame": _IN_BLOCK_FRAME,
    "goal_in_block_frame": ([0, 1, 2, 3], [-1, 1, -1, 1]),
    "goal_error": ([1, 0, 2], [-1, -1, -1]),
    "target_lead": _ON_BOARD,
    "target_lead_in_block_frame": _IN_BLOCK_FRAME,
    "keypoints": ([2 * (corner ^ 1) + axis for corner in range(8) for axis in (1, 0)], [-1] * 16),
}


def mirror_points(name: Literal["agent_pos", "keypoints"], points: np.ndarray, drawn: bool) -> np.ndarray:
    """Where points lie in the mirror.

    Args:
        name: what they are: "agent_pos" stands for any single one; of keypoints the mirror exchanges pairs.
        points: (..., 2) or (..., 16), in pixels.
        drawn: in the mirror of pictures. The environment draws a point at the pixel of its whole number, and
            a flip exchanges pixel 0 with pixel 511, so that mirror stands half a pixel beside the board's.
    """
    order, signs = _MIRRORED[name]
    middle = np.float32((BOARD_PX - 1) / 2 if drawn else BOARD_PX / 2)
    return (points - middle)[..., order] * np.array(signs, points.dtype) + middle


def mirror_pictures(pictures: "torch.Tensor") -> "torch.Tensor":
    """Pictures (..., height, width) of the board in the mirror: flipped across their other diagonal."""
    return pictures.flip(-2, -1).transpose(-2, -1)


def rigid_transform(points: np.ndarray, pose: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """Where points lie after the rigid motion of the board that takes one pose onto another.

    Args:
        points: (..., 2) pixels.
        pose: (3,) x and y in pixels, angle in radians.
        onto: (3,) the same.
    """
    turn = onto[2] - pose[2]
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return (points - pose[:2]) @ rotation.T + onto[:2]


def mirror(names: Sequence[str], action_frame: str) -> Symmetry:
    """The mirror for observations of these features and for actions in the frame "board" or "block".

    Raises:
        ValueError: one of them is no change of order and signs.
    """
    if stubborn := [name for name in names if name not in _MIRRORED]:
        raise ValueError(f"mirror must be false with {', '.join(stubborn)}, which has no mirror image")
    order, signs = [], []
    for name in names:
        feature_order, feature_signs = _MIRRORED[name]
        order += [len(order) + index for index in feature_order]
        signs += feature_signs
    action_order, action_signs = _IN_BLOCK_FRAME if action_frame == "block" else _ON_BOARD
    return Symmetry(
        np.array(order),
        np.array(signs, np.float32),
        np.array(action_order),
        np.array(action_signs, np.float32),
    )
