"""What a state-based policy sees: named features of the raw observation, scaled to about [-1, 1].

Each feature writes its numbers for one environment, and a compiled loop calls them. A policy names the
features that it was trained on, stacked in the order of their names there.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numba import njit

from envs.interfaces import RawObservation

BOARD_PX = 512.0  # side of the board; every position on it is in its pixels
_HALF_BOARD = BOARD_PX / 2
GOAL_POSE = np.array([256.0, 256.0, np.pi / 4])  # x, y in pixels, angle: where gym-pusht wants the block
_GOAL_X, _GOAL_Y, _GOAL_ANGLE = GOAL_POSE.tolist()
FPS = 10  # control steps per second, and pictures
SUCCESS_COVERAGE = 0.95  # gym-pusht's success_threshold: more of the goal covered ends an episode


class Board(NamedTuple):
    """One environment."""

    agent_x: float  # pixels
    agent_y: float
    velocity_x: float  # of the agent, px/s
    velocity_y: float
    x: float  # of the block, pixels
    y: float
    angle: float  # of the block, rad
    cos: float  # of that angle
    sin: float
    target_x: float  # the last target, pixels
    target_y: float
    keypoints: Any  # (16,) pixels


# Where `features` puts what of a raw observation.
_COLUMNS = {
    "agent_pos": slice(0, 2),
    "agent_vel": slice(2, 4),
    "block_pose": slice(4, 7),
    "last_target": slice(7, 9),  # the codec's memory
    "keypoints": slice(9, 25),
}


@njit(cache=True)
def _turn_back(board, x, y):
    """A vector of the board in the block's frame."""
    return board.cos * x + board.sin * y, board.cos * y - board.sin * x


@njit(cache=True)
def agent_pos(board, out):
    """Agent position, 2 numbers, board [0, 512] px to [-1, 1]."""
    out[0], out[1] = board.agent_x / _HALF_BOARD - 1.0, board.agent_y / _HALF_BOARD - 1.0


@njit(cache=True)
def agent_vel(board, out):
    """Agent velocity, 2 numbers, in 200 px/s; a target 40 px ahead makes 200."""
    out[0], out[1] = board.velocity_x / 200.0, board.velocity_y / 200.0


@njit(cache=True)
def block_pos(board, out):
    """Block position, 2 numbers, board [0, 512] px to [-1, 1]."""
    out[0], out[1] = board.x / _HALF_BOARD - 1.0, board.y / _HALF_BOARD - 1.0


@njit(cache=True)
def block_angle(board, out):
    """Block angle, [0, 2 pi) rad to [-1, 1), as in the stock `state`: it jumps at 0 = 2 pi."""
    out[0] = board.angle % (2 * math.pi) / math.pi - 1.0


@njit(cache=True)
def block_rotation(board, out):
    """Cosine and sine of the block's angle."""
    out[0], out[1] = board.cos, board.sin


@njit(cache=True)
def agent_in_block_frame(board, out):
    """Agent position in the block's frame, 2 numbers, in 100 px: what a contact depends on."""
    x, y = _turn_back(board, board.agent_x - board.x, board.agent_y - board.y)
    out[0], out[1] = x / 100.0, y / 100.0


@njit(cache=True)
def agent_fourier_in_block_frame(board, out):
    """Sines and cosines of `agent_in_block_frame`, 8 numbers, with periods of 100 and 50 px.

    From coordinates alone networks are slow to learn what changes within a few pixels, as a contact does:
    Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions" (arXiv:2006.10739).
    Clipped at 125 px, beyond which nothing touches.
    """
    agent_in_block_frame(board, out)
    x, y = out[0], out[1]
    for axis, place in ((0, x), (1, y)):
        phase = 2 * math.pi * min(max(place, -1.25), 1.25)
        for times in range(1, 3):
            out[4 * times - 4 + axis] = math.sin(times * phase)
            out[4 * times - 2 + axis] = math.cos(times * phase)


@njit(cache=True)
def agent_vel_in_block_frame(board, out):
    """Agent velocity in the block's frame, 2 numbers, in 200 px/s."""
    x, y = _turn_back(board, board.velocity_x, board.velocity_y)
    out[0], out[1] = x / 200.0, y / 200.0


@njit(cache=True)
def goal_in_block_frame(board, out):
    """Goal position in the block's frame, 4 numbers: in 128 px, and squashed as in `goal_error`."""
    x, y = _turn_back(board, _GOAL_X - board.x, _GOAL_Y - board.y)
    out[0], out[1] = x / 128.0, y / 128.0
    out[2], out[3] = x / (20.0 + abs(x)), y / (20.0 + abs(y))


@njit(cache=True)
def goal_error(board, out):
    """Block pose minus goal pose, 3 numbers, squashed to (-1, 1): half-way at 20 px and at 0.2 rad."""
    out[0], out[1] = (board.x - _GOAL_X) / 20.0, (board.y - _GOAL_Y) / 20.0
    out[2] = math.sin(board.angle - _GOAL_ANGLE) / 0.2
    for i in range(3):
        out[i] /= 1.0 + abs(out[i])


@njit(cache=True)
def target_lead(board, out):
    """Last target minus agent position, 2 numbers, in 40 px."""
    out[0], out[1] = (board.target_x - board.agent_x) / 40.0, (board.target_y - board.agent_y) / 40.0


@njit(cache=True)
def target_lead_in_block_frame(board, out):
    """`target_lead` in the block's frame, 2 numbers, in 40 px."""
    x, y = _turn_back(board, board.target_x - board.agent_x, board.target_y - board.agent_y)
    out[0], out[1] = x / 40.0, y / 40.0


@njit(cache=True)
def keypoints(board, out):
    """Corners of the T's two rectangles, 16 numbers, board [0, 512] px to [-1, 1]."""
    for i in range(16):
        out[i] = board.keypoints[i] / _HALF_BOARD - 1.0


class Feature(NamedTuple):
    function: Callable[[Any, np.ndarray], None]
    size: int
    raw: tuple[str, ...]  # what it is made of


FEATURES: dict[str, Feature] = {
    feature.function.__name__: feature
    for feature in (
        Feature(agent_pos, 2, ("agent_pos",)),
        Feature(agent_vel, 2, ("agent_vel",)),
        Feature(block_pos, 2, ("block_pose",)),
        Feature(block_angle, 1, ("block_pose",)),
        Feature(block_rotation, 2, ("block_pose",)),
        Feature(agent_in_block_frame, 2, ("agent_pos", "block_pose")),
        Feature(agent_fourier_in_block_frame, 8, ("agent_pos", "block_pose")),
        Feature(agent_vel_in_block_frame, 2, ("agent_vel", "block_pose")),
        Feature(goal_in_block_frame, 4, ("block_pose",)),
        Feature(goal_error, 3, ("block_pose",)),
        Feature(target_lead, 2, ("last_target", "agent_pos")),
        Feature(target_lead_in_block_frame, 2, ("last_target", "agent_pos", "block_pose")),
        Feature(keypoints, 16, ("keypoints",)),
    )
}
_NAMES = tuple(FEATURES)


@njit(cache=True)
def _write(feature, board, out):  # Numba calls no function out of a table as fast
    """Write the numbers of the feature at this place in `FEATURES`."""
    if feature == 0:
        agent_pos(board, out)
    elif feature == 1:
        agent_vel(board, out)
    elif feature == 2:
        block_pos(board, out)
    elif feature == 3:
        block_angle(board, out)
    elif feature == 4:
        block_rotation(board, out)
    elif feature == 5:
        agent_in_block_frame(board, out)
    elif feature == 6:
        agent_fourier_in_block_frame(board, out)
    elif feature == 7:
        agent_vel_in_block_frame(board, out)
    elif feature == 8:
        goal_in_block_frame(board, out)
    elif feature == 9:
        goal_error(board, out)
    elif feature == 10:
        target_lead(board, out)
    elif feature == 11:
        target_lead_in_block_frame(board, out)
    elif feature == 12:
        keypoints(board, out)


@njit(cache=True)
def _write_all(rows, chosen, places, seen):
    """Fill `seen` (n, D) from rows (n, 25) with the chosen features, which begin at these places."""
    numbers = np.empty(seen.shape[1])
    for i in range(len(rows)):
        row = rows[i]
        cos, sin = math.cos(row[6]), math.sin(row[6])
        board = Board(
            row[0], row[1], row[2], row[3], row[4], row[5], row[6], cos, sin, row[7], row[8], row[9:]
        )
        for k in range(len(chosen)):
            _write(chosen[k], board, numbers[places[k] :])
        seen[i] = numbers


def wrap_angle(angle: np.ndarray) -> np.ndarray:
    """The same angles in [-pi, pi)."""
    return (angle + np.pi) % (2.0 * np.pi) - np.pi


@njit(cache=True)
def rotate(vectors: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """Vectors (n, 2) turned by `angles` (n,), rad, as the board's angles turn: from x towards y."""
    turned = np.empty((len(vectors), 2))
    for i in range(len(vectors)):
        (x, y), cos, sin = vectors[i], math.cos(angles[i]), math.sin(angles[i])
        turned[i] = cos * x - sin * y, sin * x + cos * y
    return turned


@njit(cache=True)
def centre_of_gravity(block_pose: np.ndarray) -> np.ndarray:
    """Of blocks at these poses (n, 3), (n, 2) pixels: 45 px from the origin, down the stem."""
    centres = np.empty((len(block_pose), 2))
    for i in range(len(block_pose)):
        x, y, angle = block_pose[i]
        centres[i] = x - 45.0 * math.sin(angle), y + 45.0 * math.cos(angle)
    return centres


def check_features(names: Sequence[str]) -> None:
    """Raise ValueError if a policy cannot see this."""
    unknown = [name for name in names if name not in FEATURES]
    if unknown or not names:
        raise ValueError(f"features must be of {', '.join(FEATURES)}, got {', '.join(unknown) or 'none'}")


@functools.cache
def _layout(names: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Places of these features in `FEATURES` and in a row, and what of a raw observation they need."""
    chosen = [FEATURES[name] for name in names]
    needed = {key for feature in chosen for key in feature.raw}
    ends = np.cumsum([feature.size for feature in chosen])
    begins = ends - [feature.size for feature in chosen]
    return np.array([_NAMES.index(name) for name in names]), begins, tuple(needed)


def features(raw: RawObservation, names: Sequence[str]) -> np.ndarray:
    """The named features side by side, (n, D) float32."""
    chosen, places, needed = _layout(tuple(names))
    rows = np.zeros((len(raw[needed[0]]), _COLUMNS["keypoints"].stop))
    for key in needed:
        rows[:, _COLUMNS[key]] = raw[key].reshape(len(rows), -1)
    seen = np.empty((len(rows), feature_size(names)), np.float32)
    _write_all(rows, chosen, places, seen)
    return seen


def feature_size(names: Sequence[str]) -> int:
    """How many numbers `features` returns per environment."""
    return sum(FEATURES[name].size for name in names)
