"""The 206 demonstrations of people that Diffusion Policy (Chi et al. 2023) was trained on, for LeRobot.

They are stored as arrays `state` (N, 5): agent x, y, block x, y [px], angle [rad]; `action` (N, 2) [px];
`episode_ends` (episodes,), exclusive; and `img` (N, 96, 96, 3): in one `.npz` (the pictures may be in another
one, `<name>_img.npz`, beside it) or in the original zarr folder.

They hold no rewards: the reward of frame t is that of the recorded state t + 1, and after the last one that
of the simulator playing the last action. Where that replay has lost the recording, the last reward is
repeated.

People stopped when the T looked right, at a coverage of 0.9, and 7 of them succeeded. In hindsight
(Andrychowicz et al. 2017) each showed how to bring the T to wherever it lay on the way: with
`Recipe.hindsight` such segments are moved to where their T ends on the goal, and played there from rest in
the simulator, up to their success. What does not succeed, for it met a wall, is left out.
"""

import hashlib
import json
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
from tqdm import tqdm

from common.errors import UserError, reason
from common.run import StopRequest
from envs.pusht import physics
from envs.pusht.observations import GOAL_POSE, SUCCESS_COVERAGE, wrap_angle
from envs.pusht.renderer import Renderer
from envs.pusht.symmetry import rigid_transform
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import replay
from recording.dataset import Dataset
from recording.pictures import encode_png, histogram
from recording.play import add_pictures
from recording.schema import Recipe, Recorded, columns

SIM_STATE = "agent_pos", "block_pose", "agent_vel"  # observations that make a state (7,)
BATCH = 50  # episodes saved at a time
LOST = 1.0  # pixels between a replay and a recording beyond which the replay says nothing about it
APART = 10.0  # pixels, at least, from one end of a demonstration's segments to the next
FAR = 30.0  # pixels that a part of a demonstration brings its T at least
SHORT = 30  # frames, below which a part is none
RADIAN = 50.0  # pixels that it counts as
WALL = 5.0  # pixels from the edge of the board


@dataclass(frozen=True)
class Demonstrations:
    """All of a file: see the module."""

    states: np.ndarray
    actions: np.ndarray
    ends: np.ndarray
    images: np.ndarray | None

    def episodes(self) -> Iterator[slice]:
        return (slice(start, end) for start, end in pairwise([0, *self.ends]))


def import_human(dataset: Dataset, path: Path) -> bool:
    """Write all demonstrations of a file that `dataset` does not hold yet.

    Returns:
        False if Ctrl-C or SIGTERM came before.

    Raises:
        UserError: the file is not such a file, nothing in it succeeds in hindsight, or the disk is full.
    """
    recipe, source = dataset.notes.recipe, load(path)
    if recipe.observations == "keypoints" or recipe.hindsight:
        source = replace(source, images=None)
    pictures = source.images
    if pictures is not None and recipe.resolution != pictures.shape[1]:
        raise UserError(f"resolution must be {pictures.shape[1]} with {path}, whose pictures are recorded")
    draws = recipe.hindsight and recipe.observations == "pixels"
    env = PushTVectorEnv(1, recipe.resolution if draws else 0)
    places = list(segments(env, source) if recipe.hindsight else source.episodes())
    notes, places = dataset.notes, places[dataset.notes.attempts :]
    look = {"unit": "episode", "desc": "importing", "dynamic_ncols": True, "disable": None}
    with StopRequest("these episodes, to save") as stop, tqdm(total=len(places), **look) as bar:
        for first in range(0, len(places), BATCH):
            tried = [_episode(env, recipe, source, place) for place in places[first : first + BATCH]]
            batch = [episode for episode in tried if recipe.accepts(episode.success, episode.max_coverage)]
            successes = notes.successes + sum(episode.success for episode in tried)
            notes = replace(notes, attempts=notes.attempts + len(tried), successes=successes)
            if batch:
                dataset.append(batch, notes)
            bar.update(len(tried))
            if stop() and bar.n < len(places):
                return False
    if not dataset.episodes:
        raise UserError(f"{path}: moved to where its T ends on the goal, no demonstration succeeds")
    return True


def fingerprint(path: Path) -> str:
    """What tells demonstrations from any others, whatever their name: the SHA-256 of their files.

    Raises:
        UserError: there are none.
    """
    if not path.exists():
        raise UserError(
            f"{path}: no such file; --import-human takes an .npz or a zarr folder of demonstrations"
        )
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*")) if path.is_dir() else (path, _pictures_beside(path)):
        if file.is_file():
            digest.update(file.read_bytes())
    return digest.hexdigest()


def load(path: Path) -> Demonstrations:
    """Read an `.npz` file or a zarr folder.

    Raises:
        UserError: something in it is missing, damaged, or does not fit the rest.
    """
    try:
        arrays = _read_zarr(path) if path.is_dir() else _read_npz(path)
        states, actions, ends = (np.asarray(arrays[name]) for name in ("state", "action", "episode_ends"))
    except KeyError as error:
        raise UserError(
            f"{path}: has no {error.args[0]}; it must hold state, action and episode_ends"
        ) from None
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path}: damaged, or no file of demonstrations ({reason(error)})") from None
    images = arrays.get("img")
    whole = ends.ndim == 1 and np.issubdtype(ends.dtype, np.integer) and len(ends) > 0
    whole = whole and actions.shape == (ends[-1], 2) and states.shape == (ends[-1], 5)
    if not whole:
        raise UserError(f"{path}: expected state (N, 5), action (N, 2) and episode_ends up to N")
    if np.any(np.diff(ends, prepend=0) <= 0):
        raise UserError(f"{path}: episode_ends must grow from one episode to the next")
    if not (np.isfinite(states).all() and np.isfinite(actions).all()):
        raise UserError(f"{path}: state and action must be finite numbers, and some are not")
    if images is not None and images.shape != (len(actions), *images.shape[1:2] * 2, 3):
        raise UserError(f"{path}: img must hold {len(actions)} pictures (side, side, 3), got {images.shape}")
    return Demonstrations(states, actions, ends, None if images is None else images.astype(np.uint8))


def segments(env: PushTVectorEnv, source: Demonstrations) -> Iterator[slice]:
    """What demonstrations show in hindsight: the whole of each, and the ways to where its T was before.

    Each begins as early as it can without leaving the board where it is moved to.
    """
    for place in source.episodes():
        states = source.states[place].astype(np.float64)
        points = np.concatenate([states[:, None, :2], _geometry(env, states)[1]], axis=1)
        latest = None
        for end in range(len(states), SHORT - 1, -1):
            pose = states[min(end, len(states) - 1), 2:5]
            if latest is not None and _distance(pose, latest) < APART:
                continue
            moved = rigid_transform(points[:end], pose, GOAL_POSE)
            outside = np.flatnonzero(np.any(np.abs(moved - 256.0) > 256.0 - WALL, axis=(1, 2)))
            start = outside[-1] + 1 if len(outside) else 0
            if end - start >= SHORT and _distance(states[start, 2:5], pose) >= FAR:
                latest = pose
                yield slice(place.start + start, place.start + end)


def _distance(pose: np.ndarray, other: np.ndarray) -> float:
    return np.linalg.norm(pose[:2] - other[:2]) + RADIAN * abs(wrap_angle(pose[2] - other[2]))


def _episode(env: PushTVectorEnv, recipe: Recipe, source: Demonstrations, place: slice) -> Recorded:
    states, actions = source.states[place].astype(np.float64), source.actions[place].astype(np.float64)
    if recipe.hindsight:
        states, actions, coverage, frames = _in_hindsight(env, states, actions)
    else:
        states, coverage = _as_recorded(env, states, actions)
        frames = _pictures(recipe, source, place, states) if recipe.observations == "pixels" else []
    values = columns(recipe, states, _geometry(env, states)[1], actions, actions, coverage)
    episode = Recorded(-1, bool(coverage[-1] > SUCCESS_COVERAGE), float(coverage.max()), values, [], {})
    add_pictures(recipe, episode, [encode_png(f) for f in frames], [histogram(f) for f in frames])
    return episode


def _as_recorded(
    env: PushTVectorEnv, states: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """States (T, 7), with the simulator's velocities, and coverage (T,) after each action."""
    replayed, played, _ = _replay(env, states[0], actions)
    recorded = _geometry(env, states)[0]
    lost = np.abs(replayed[:, :4] - states[:, :4]).max() > LOST
    coverage = np.append(recorded[1:], recorded[-1] if lost else played[-1])
    return np.concatenate([states, replayed[:, 5:]], axis=1), coverage


def _in_hindsight(
    env: PushTVectorEnv, states: np.ndarray, actions: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[np.ndarray]]:
    """States (T, 7), actions (T, 2), coverage (T,) and pictures of what was moved, up to its success."""
    _replay(env, states[0], actions, draw=False)
    end = env.envs[0].get_state()[2:5]
    agent, block = (rigid_transform(states[0, xy], end, GOAL_POSE) for xy in (slice(0, 2), slice(2, 4)))
    start = np.array([*agent, *block, states[0, 4] + GOAL_POSE[2] - end[2]])
    targets = np.clip(rigid_transform(actions, end, GOAL_POSE), 0.0, 512.0)
    targets = targets.astype(np.float32).astype(np.float64)  # as they are stored
    replayed, coverage, pictures = _replay(env, start, targets)
    on_place = coverage > SUCCESS_COVERAGE
    frames = int(on_place.argmax()) + 1 if on_place.any() else len(coverage)
    return replayed[:frames], targets[:frames], coverage[:frames], pictures[:frames]


def _pictures(recipe: Recipe, source: Demonstrations, place: slice, states: np.ndarray) -> list[np.ndarray]:
    if source.images is not None:
        return list(source.images[place])
    renderer = Renderer(recipe.resolution, recipe.resolution)
    return [renderer.draw(state[:2], state[2:5]) for state in states]


def _replay(
    env: PushTVectorEnv, start: np.ndarray, actions: np.ndarray, draw: bool = True
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """States (T, 7) and pictures, if `env` has any, before each action, and coverage (T,) after it."""
    states, coverage, pictures = [], [], []
    for observations, _, infos in replay(env, actions, options={"states": start[None]}):
        states.append(np.concatenate([observations[name][0] for name in SIM_STATE]))
        coverage.append(infos["progress"][0])
        if draw and env.image_size:
            pictures.append(observations["pixels"][0])
    return np.stack(states[:-1]), np.array(coverage[1:]), pictures[:-1]


def _geometry(env: PushTVectorEnv, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coverage (T,) and corners (T, 8, 2) of blocks that lie as `states` say."""
    tee, goal = env.envs[0].rectangles
    coverage, corners = [], []
    for x, y, angle in states[:, 2:5]:
        pose = x, y, np.cos(angle), np.sin(angle)
        coverage.append(physics.coverage(*pose, tee, goal))
        corners.append(physics.to_world(tee, *pose).reshape(8, 2))
    return np.array(coverage), np.stack(corners)


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    arrays = dict(np.load(path, allow_pickle=False))
    if "img" not in arrays and _pictures_beside(path).exists():
        arrays |= np.load(_pictures_beside(path), allow_pickle=False)
    return arrays


def _pictures_beside(path: Path) -> Path:
    return path.with_name(f"{path.stem}_img.npz")


def _read_zarr(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a zarr folder of version 2, in which Diffusion Policy keeps its data."""
    return {info.parent.name: _read_array(info.parent) for info in sorted(path.rglob(".zarray"))}


def _read_array(folder: Path) -> np.ndarray:
    info = json.loads((folder / ".zarray").read_text())
    shape, chunks = info["shape"], info["chunks"]
    values = np.zeros(shape, info["dtype"])
    for index in product(*(range(-(-size // chunk)) for size, chunk in zip(shape, chunks, strict=True))):
        file = folder / info.get("dimension_separator", ".").join(map(str, index))
        if file.exists():  # one that is not there is all zeros
            block = np.frombuffer(_decompress(file.read_bytes(), info["compressor"]), info["dtype"])
            block = block.reshape(chunks, order=info["order"])
            window = tuple(
                slice(i * c, min((i + 1) * c, n)) for i, c, n in zip(index, chunks, shape, strict=True)
            )
            values[window] = block[tuple(slice(0, w.stop - w.start) for w in window)]
    return values


def _decompress(data: bytes, compressor: dict | None) -> bytes:
    if compressor is None:
        return data
    try:
        import numcodecs  # nobody else needs it, so it is not installed with the rest
    except ImportError:
        raise UserError(
            f"this zarr folder is compressed with {compressor['id']}: `pip install numcodecs` to read it"
        ) from None
    return numcodecs.get_codec(compressor).decode(data)
