"""The 206 demonstrations of people that Diffusion Policy (Chi et al. 2023) was trained on.

They are stored as arrays `state` (N, 5): agent x, y, block x, y [px], angle [rad]; `action` (N, 2) [px];
`episode_ends` (episodes,), exclusive; and `img` (N, 96, 96, 3): in one `.npz` (the pictures may be in another
one, `<name>_img.npz`, beside it) or in the original zarr folder.

They hold no rewards: the reward of frame t is that of the recorded state t + 1, and after the last one that
of the simulator playing the last action. Where that replay differs from the recording, the last reward is
repeated.

People stopped when the T looked right, at a coverage of 0.9, and 7 of them succeeded. In hindsight
(Andrychowicz et al. 2017) each showed how to bring the T to wherever it lay on the way: such segments are
moved to where their T ends on the goal, and played there from rest in the simulator, up to their success.
Those that fail, because they met a wall, are left out.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np

from common.arrays import DAMAGE, MAX_BYTES, read_npz, read_zarr_array, zarr_arrays
from common.errors import UserError, reason
from common.untrusted import digest
from envs.interfaces import RawObservation
from envs.pusht import physics
from envs.pusht.observations import BOARD_PX, GOAL_POSE, SUCCESS_COVERAGE, wrap_angle
from envs.pusht.renderer import Renderer
from envs.pusht.symmetry import rigid_transform
from envs.pusht.vector import PushTVectorEnv
from envs.recording import Demonstration
from envs.rollout import replay

REPLAY_TOLERANCE_PX = 1.0  # a replay further than this from its recording does not give the last reward
MIN_END_DISTANCE_PX = 10.0  # from one end of a demonstration's segments to the next
MIN_PUSH_PX = 30.0  # that a segment moves its T
MIN_SEGMENT_STEPS = 30
RADIAN_PX = 50.0  # what a radian counts as in these two distances
WALL_MARGIN_PX = 5.0  # that moved segments keep from the edge of the board
CHECKED = 10  # demonstrations that are tried in the simulator before any is imported
CHECKED_STEPS = 300  # of each at most
PICTURE_TOLERANCE = 3.0  # of 255 on average: people's are off by 0.2, another state's picture by 5


@dataclass(frozen=True)
class Arrays:
    """The content of a file, see the module."""

    states: np.ndarray  # (N, 5)
    actions: np.ndarray  # (N, 2)
    ends: np.ndarray  # (episodes,)
    images: np.ndarray | None  # (N, side, side, 3) uint8

    def episodes(self) -> Iterator[slice]:
        return (slice(start, end) for start, end in pairwise([0, *self.ends]))


class PeoplesDemonstrations:
    """An `envs.recording.DemonstrationFile` of a file.

    Args:
        path: `.npz` file or zarr folder.
        resolution: side in pixels of the pictures; 0: without.
        hindsight: segments of the demonstrations, moved to where they should succeed; some fail.

    Raises:
        UserError: the file is not such a file, its pictures have another resolution, or it is not of PushT.
    """

    def __init__(self, path: Path, resolution: int, hindsight: bool) -> None:
        self.arrays = load(path, pictures=resolution > 0 and not hindsight)
        images = self.arrays.images
        if images is not None and resolution != images.shape[1]:
            raise UserError(f"resolution must be {images.shape[1]} with {path}, whose pictures are recorded")
        self.resolution, self.hindsight = resolution, hindsight
        self.env = PushTVectorEnv(1)
        self.camera_env = PushTVectorEnv(1, resolution)
        check_pusht(self.env, self.arrays, path)
        self.places = list(segments(self.env, self.arrays) if hindsight else self.arrays.episodes())

    def __len__(self) -> int:
        return len(self.places)

    def read(self, first: int) -> Iterator[Demonstration]:
        return map(self._moved if self.hindsight else self._as_recorded, self.places[first:])

    def _as_recorded(self, place: slice) -> Demonstration:
        """With the velocities of the simulator."""
        states, actions = self._values(place)
        replayed, played, _ = _replay(self.env, states[0], actions)
        recorded = geometry(self.env, states)[0]
        differs = np.abs(replayed[:, :4] - states[:, :4]).max() > REPLAY_TOLERANCE_PX
        coverage = np.append(recorded[1:], recorded[-1] if differs else played[-1])
        pictures: list[np.ndarray] = []
        if self.arrays.images is not None:
            pictures = list(self.arrays.images[place])
        elif self.resolution:
            renderer = Renderer(self.resolution, self.resolution)
            pictures = [renderer.draw(state[:2], state[2:5]) for state in states]
        return self._demonstration(
            np.concatenate([states, replayed[:, 5:]], axis=1), actions, coverage, pictures
        )

    def _moved(self, place: slice) -> Demonstration:
        """A segment where its T ends on the goal, up to its success."""
        states, actions = self._values(place)
        end = _replay(self.env, states[0], actions, last=True)[0][-1, 2:5]
        agent, block = (rigid_transform(states[0, xy], end, GOAL_POSE) for xy in (slice(0, 2), slice(2, 4)))
        start = np.array([*agent, *block, states[0, 4] + GOAL_POSE[2] - end[2]])
        targets = np.clip(rigid_transform(actions, end, GOAL_POSE), 0.0, BOARD_PX)
        targets = targets.astype(np.float32).astype(np.float64)  # as they are stored
        replayed, coverage, pictures = _replay(self.camera_env, start, targets)
        is_success = coverage > SUCCESS_COVERAGE
        steps = int(is_success.argmax()) + 1 if is_success.any() else len(coverage)
        return self._demonstration(replayed[:steps], targets[:steps], coverage[:steps], pictures[:steps])

    def _values(self, place: slice) -> tuple[np.ndarray, np.ndarray]:
        """States (T, 5) and actions (T, 2), float64."""
        return self.arrays.states[place].astype(np.float64), self.arrays.actions[place].astype(np.float64)

    def _demonstration(
        self, states: np.ndarray, actions: np.ndarray, coverage: np.ndarray, pictures: list[np.ndarray]
    ) -> Demonstration:
        observations: RawObservation = {
            "agent_pos": states[:, :2],
            "block_pose": states[:, 2:5],
            "agent_vel": states[:, 5:],
            "keypoints": geometry(self.env, states)[1],
        }
        rewards = np.minimum(coverage / SUCCESS_COVERAGE, 1.0)
        return Demonstration(observations, actions, rewards, coverage, coverage > SUCCESS_COVERAGE, pictures)


def fingerprint(path: Path) -> str:
    """The SHA-256 of the demonstrations' files, whatever their names.

    Raises:
        UserError: there are none.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no such file; --import-human takes an .npz or a zarr folder of demonstrations"
        )
    if path.is_dir():
        with _reading(path):
            zarr_arrays(path)  # else it may be any folder, and large
    files = sorted(path.rglob("*")) if path.is_dir() else (path, _pictures_beside(path))
    return digest((("", file) for file in files if file.is_file()), MAX_BYTES)


def load(path: Path, pictures: bool = True) -> Arrays:
    """Read an `.npz` file or a zarr folder, with its pictures or without.

    Raises:
        UserError: something in it is missing, damaged, or does not fit the rest.
    """
    names = ["state", "action", "episode_ends", *(["img"] if pictures else [])]
    with _reading(path):
        arrays = _read_zarr(path, names) if path.is_dir() else _read_npz(path, names)
    if missing := [name for name in names[:3] if name not in arrays]:
        raise UserError(f"{path}: has no {missing[0]}; it must hold state, action and episode_ends")
    states, actions, ends = (arrays[name] for name in names[:3])
    images = arrays.get("img")
    whole = ends.ndim == 1 and np.issubdtype(ends.dtype, np.integer) and len(ends) > 0
    whole = whole and actions.shape == (ends[-1], 2) and states.shape == (ends[-1], 5)
    if not whole:
        raise UserError(f"{path}: expected state (N, 5), action (N, 2) and episode_ends up to N")
    if np.any(np.diff(ends.astype(np.int64), prepend=0) <= 0):
        raise UserError(f"{path}: episode_ends must grow from one episode to the next")
    if not (np.isfinite(states).all() and np.isfinite(actions).all()):
        raise UserError(f"{path}: state and action must be finite numbers, and some are not")
    if images is not None and images.shape != (len(actions), *images.shape[1:2] * 2, 3):
        raise UserError(f"{path}: img must hold {len(actions)} pictures (side, side, 3), got {images.shape}")
    return Arrays(states, actions, ends.astype(np.int64), None if images is None else _bytes(images, path))


def _bytes(images: np.ndarray, path: Path) -> np.ndarray:
    """Pictures as uint8; Diffusion Policy's are floats, but whole numbers."""
    if images.dtype == np.uint8:
        return images
    converted = np.empty(images.shape, np.uint8)
    for start in range(0, len(images), 256):
        some = images[start : start + 256]
        with np.errstate(invalid="ignore"):
            converted[start : start + 256] = some
        if not np.array_equal(converted[start : start + 256], some):
            found = f"got {some.min():.3g} to {some.max():.3g}"
            raise UserError(f"{path}: img must hold whole numbers from 0 to 255, {found}")
    return converted


def check_pusht(env: PushTVectorEnv, arrays: Arrays, path: Path) -> None:
    """Raise UserError where demonstrations are not PushT's, in its units and at its pace."""
    places = {"agent": arrays.states[:, :2], "block": arrays.states[:, 2:4], "action": arrays.actions}
    looks = "relative to the agent" if arrays.states.min() >= 0 else "another task's"
    if max(np.abs(values).max() for values in places.values()) <= 2:
        looks = "normalised"
    for name, values in places.items():
        low, high = values.min(), values.max()
        if low < 0 or high > BOARD_PX or looks == "normalised":
            raise UserError(
                f"{path}: {name} must be x, y in pixels of the board, from 0 to {BOARD_PX:.0f}, "
                f"got {low:.3g} to {high:.3g}, which looks {looks}"
            )
    episodes = list(arrays.episodes())
    chosen = [episodes[i] for i in np.unique(np.linspace(0, len(episodes) - 1, CHECKED).astype(int))]
    gaps = [_replay_gap(env, arrays, slice(p.start, min(p.stop, p.start + CHECKED_STEPS))) for p in chosen]
    replaying = sum(gap <= REPLAY_TOLERANCE_PX for gap in gaps)
    if 2 * replaying <= len(chosen):
        raise UserError(
            f"{path}: {replaying} of {len(chosen)} demonstrations replay, {np.median(gaps):.3g} px off: "
            "state must be agent x, y, block x, y, angle [px, rad] at 10 Hz, action the agent's target [px]"
        )
    if arrays.images is not None:
        _check_pictures(arrays, chosen, path)


def _replay_gap(env: PushTVectorEnv, arrays: Arrays, place: slice) -> float:
    """How far a replay is from what was recorded, in pixels, in the median frame."""
    states, actions = arrays.states[place].astype(np.float64), arrays.actions[place].astype(np.float64)
    replayed = _replay(env, states[0], actions)[0]
    turns = RADIAN_PX * np.abs(wrap_angle(replayed[:, 4] - states[:, 4]))
    return float(np.median(np.maximum(np.abs(replayed[:, :4] - states[:, :4]).max(axis=1), turns)))


def _check_pictures(arrays: Arrays, places: list[slice], path: Path) -> None:
    """Raise UserError where the first pictures of these demonstrations are not of the recorded states."""
    assert arrays.images is not None
    first = [place.start for place in places]
    renderer = Renderer(arrays.images.shape[1], arrays.images.shape[1])
    drawn = np.stack(
        [renderer.draw(state[:2], state[2:5]) for state in arrays.states[first].astype(np.float64)]
    )
    recorded = arrays.images[first].astype(int)
    gap, swapped = (np.abs(pictures - recorded).mean() for pictures in (drawn, drawn[..., ::-1]))
    if gap > PICTURE_TOLERANCE or swapped < gap:
        what = "have red and blue exchanged" if swapped < gap else f"are {gap:.3g} of 255 from PushT's"
        raise UserError(f"{path}: img must show the states as PushT draws them, RGB; these pictures {what}")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except DAMAGE as error:
        raise UserError(f"{path}: cannot be read as demonstrations ({reason(error)})") from None


def segments(env: PushTVectorEnv, source: Arrays) -> Iterator[slice]:
    """What demonstrations show in hindsight: the whole of each, and the ways to where its T was before.

    Each begins as early as it can without leaving the board where it is moved to.
    """
    middle = BOARD_PX / 2
    for place in source.episodes():
        states = source.states[place].astype(np.float64)
        points = np.concatenate([states[:, None, :2], geometry(env, states)[1]], axis=1)
        latest = None
        for end in range(len(states), MIN_SEGMENT_STEPS - 1, -1):
            pose = states[min(end, len(states) - 1), 2:5]
            if latest is not None and pose_distance(pose, latest) < MIN_END_DISTANCE_PX:
                continue
            moved = rigid_transform(points[:end], pose, GOAL_POSE)
            outside = np.flatnonzero(np.any(np.abs(moved - middle) > middle - WALL_MARGIN_PX, axis=(1, 2)))
            start = outside[-1] + 1 if len(outside) else 0
            pushes = end - start >= MIN_SEGMENT_STEPS
            if pushes and pose_distance(states[start, 2:5], pose) >= MIN_PUSH_PX:
                latest = pose
                yield slice(place.start + start, place.start + end)


def pose_distance(pose: np.ndarray, other: np.ndarray) -> float:
    """Between two poses (3,) of the T, pixels; see `RADIAN_PX`."""
    return np.linalg.norm(pose[:2] - other[:2]) + RADIAN_PX * abs(wrap_angle(pose[2] - other[2]))


def geometry(env: PushTVectorEnv, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (T,) and corners (T, 8, 2), pixels, of blocks that lie as states (T, 5 or 7) say."""
    tee, goal = env.envs[0].rectangles
    coverage, corners = [], []
    for x, y, angle in states[:, 2:5]:
        pose = x, y, np.cos(angle), np.sin(angle)
        coverage.append(physics.coverage(*pose, tee, goal))
        corners.append(physics.to_world(tee, *pose).reshape(8, 2))
    return np.array(coverage), np.stack(corners)


def _replay(
    env: PushTVectorEnv, start: np.ndarray, actions: np.ndarray, last: bool = False
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Play actions (T, 2) from a state (5,).

    Returns:
        states (T, 7) before each action, with `last` (T + 1, 7); coverage (T,) after each action; and the
        pictures before each action, if `env` has any.
    """
    states, coverage, pictures = [], [], []
    for observations, _, infos in replay(env, actions, options={"states": start[None]}):
        parts = observations["agent_pos"], observations["block_pose"], observations["agent_vel"]
        states.append(np.concatenate(parts, axis=1)[0])
        coverage.append(infos["progress"][0])
        if "pixels" in observations:
            pictures.append(observations["pixels"][0])
    return np.stack(states if last else states[:-1]), np.array(coverage[1:]), pictures[:-1]


def _read_npz(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    arrays = read_npz(path, names)
    if "img" in names and "img" not in arrays and _pictures_beside(path).exists():
        arrays |= read_npz(_pictures_beside(path), ["img"])
    return arrays


def _pictures_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}_img.npz")


def _read_zarr(path: Path, names: list[str]) -> dict[str, np.ndarray]:
    """The arrays of a zarr folder of version 2, in which Diffusion Policy keeps its data."""
    folders = zarr_arrays(path)
    return {name: read_zarr_array(folders[name]) for name in names if name in folders}
