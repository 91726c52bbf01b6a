"""What a state-based policy sees: named features of the raw observation, scaled to about [-1, 1].

Each feature is a function of a raw observation (`envs.pusht.vector.PushTVectorEnv`), (n, ...) in and (n, k)
out. A policy names the features that it was trained on; the order is theirs.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numba import njit

from envs.interfaces import RawObservation

_HALF_BOARD = 256.0  # pixels
GOAL_POSE = np.array([256.0, 256.0, np.pi / 4])  # x, y in pixels, angle: where gym-pusht wants the block
FPS = 10  # control steps per second, and pictures
SUCCESS_COVERAGE = 0.95  # gym-pusht's success_threshold: more of the goal covered ends an episode


def agent_pos(raw: RawObservation) -> np.ndarray:
    """Agent position, (n, 2), board [0, 512] px to [-1, 1]."""
    return raw["agent_pos"] / _HALF_BOARD - 1.0


def agent_vel(raw: RawObservation) -> np.ndarray:
    """Agent velocity, (n, 2), in 200 px/s; a target 40 px ahead makes 200."""
    return raw["agent_vel"] / 200.0


def block_pos(raw: RawObservation) -> np.ndarray:
    """Block position, (n, 2), board [0, 512] px to [-1, 1]."""
    return raw["block_pose"][:, :2] / _HALF_BOARD - 1.0


def block_angle(raw: RawObservation) -> np.ndarray:
    """Block angle, (n, 1), [0, 2 pi) rad to [-1, 1), as in the stock `state`: it jumps at 0 = 2 pi."""
    return raw["block_pose"][:, 2:] % (2 * np.pi) / np.pi - 1.0


def block_rotation(raw: RawObservation) -> np.ndarray:
    """Cosine and sine of the block's angle, (n, 2)."""
    angle = raw["block_pose"][:, 2:]
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def agent_in_block_frame(raw: RawObservation) -> np.ndarray:
    """Agent position in the block's frame, (n, 2), in 100 px: what a contact depends on."""
    return rotate(raw["agent_pos"] - raw["block_pose"][:, :2], -raw["block_pose"][:, 2]) / 100.0


def agent_fourier_in_block_frame(raw: RawObservation) -> np.ndarray:
    """Sines and cosines of `agent_in_block_frame`, (n, 8), with periods of 100 and 50 px.

    From coordinates alone networks are slow to learn what changes within a few pixels, as a contact does:
    Tancik et al. 2020, "Fourier Features Let Networks Learn High Frequency Functions" (arXiv:2006.10739).
    Clipped at 125 px, beyond which nothing touches.
    """
    return waves(agent_in_block_frame(raw))


def agent_vel_in_block_frame(raw: RawObservation) -> np.ndarray:
    """Agent velocity in the block's frame, (n, 2), in 200 px/s."""
    return rotate(raw["agent_vel"], -raw["block_pose"][:, 2]) / 200.0


def goal_in_block_frame(raw: RawObservation) -> np.ndarray:
    """Goal position in the block's frame, (n, 4): in 128 px, and squashed as in `goal_error`."""
    way = rotate(GOAL_POSE[:2] - raw["block_pose"][:, :2], -raw["block_pose"][:, 2])
    return np.concatenate([way / 128.0, way / (20.0 + np.abs(way))], axis=1)


def goal_error(raw: RawObservation) -> np.ndarray:
    """Block pose minus goal pose, (n, 3), squashed to (-1, 1): half-way at 20 px and at 0.2 rad."""
    error = (raw["block_pose"] - GOAL_POSE) / np.array([20.0, 20.0, 0.2])
    error[:, 2] = np.sin(raw["block_pose"][:, 2] - GOAL_POSE[2]) / 0.2
    return error / (1.0 + np.abs(error))


def target_lead(raw: RawObservation) -> np.ndarray:
    """Last target minus agent position, (n, 2), in 40 px; `last_target` is the codec's memory."""
    return (raw["last_target"] - raw["agent_pos"]) / 40.0


def target_lead_in_block_frame(raw: RawObservation) -> np.ndarray:
    """`target_lead` in the block's frame, (n, 2), in 40 px."""
    return rotate(raw["last_target"] - raw["agent_pos"], -raw["block_pose"][:, 2]) / 40.0


def keypoints(raw: RawObservation) -> np.ndarray:
    """Corners of the T's two rectangles, (n, 16), board [0, 512] px to [-1, 1]."""
    return raw["keypoints"].reshape(-1, 16) / _HALF_BOARD - 1.0


FEATURES: dict[str, Callable[[RawObservation], np.ndarray]] = {
    function.__name__: function
    for function in (
        agent_pos,
        agent_vel,
        block_pos,
        block_angle,
        block_rotation,
        agent_in_block_frame,
        agent_fourier_in_block_frame,
        agent_vel_in_block_frame,
        goal_in_block_frame,
        goal_error,
        target_lead,
        target_lead_in_block_frame,
        keypoints,
    )
}


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
def waves(points: np.ndarray) -> np.ndarray:
    """Sines and cosines of points (n, 2), clipped at 1.25, with periods of 1 and 1/2, (n, 8)."""
    waves = np.empty((len(points), 8))
    for i in range(len(points)):
        for axis in range(2):
            phase = 2 * math.pi * min(max(points[i, axis], -1.25), 1.25)
            for times in range(1, 3):
                waves[i, 4 * times - 4 + axis] = math.sin(times * phase)
                waves[i, 4 * times - 2 + axis] = math.cos(times * phase)
    return waves


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


def features(raw: RawObservation, names: Sequence[str]) -> np.ndarray:
    """The named features side by side, (n, sum of k) float32."""
    return np.concatenate([FEATURES[name](raw) for name in names], axis=1, dtype=np.float32)


def feature_size(names: Sequence[str]) -> int:
    """How many numbers `features` returns per environment."""
    shapes = {"agent_pos": 2, "agent_vel": 2, "last_target": 2, "block_pose": 3, "keypoints": (8, 2)}
    raw = {key: np.zeros(np.append(1, shape)) for key, shape in shapes.items()}
    return features(raw, names).shape[1]
