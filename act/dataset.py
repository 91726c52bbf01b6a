"""A LeRobot dataset on the disk: opened, checked against the task, read from its first frame to its last."""

import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from httpx import HTTPError
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import BackwardCompatibilityError
from lerobot.datasets.video_utils import decode_video_frames
from lerobot.utils.constants import ACTION, IMAGENET_STATS
from lerobot.utils.feature_utils import dataset_to_policy_features
from PIL import Image

from common.bounds import NotNegative, Number
from common.errors import UserError, reason
from envs.interfaces import Task

TOLERANCE = 1e-4  # seconds that a video's frame may be off, LeRobot's default
# What reading a broken file raises: pyarrow's errors are ValueErrors or OSErrors, PyAV's are OSErrors.
BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError, AttributeError)


@dataclass(frozen=True)
class DatasetConfig:
    """What to learn from."""

    root: Path | None = None  # folder of a LeRobot dataset; None: repo_id's, from LeRobot's cache or the Hub
    repo_id: str = ""  # its name on the Hub; empty: local/<folder>
    episodes: Number = 0  # learn from the first so many; 0: all
    recorded_by: str = ""  # the command that records it; shown where the dataset is missing
    mirror: bool = False  # learn from each episode a second time, as seen in the mirror; if the task has one
    imagenet_stats: bool = True  # normalise pictures as ImageNet's are, not by the dataset's own numbers
    memory_gb: NotNegative = 8.0  # of decoded pictures held in memory; more lie in a file beside the run

    def validate(self) -> None:
        if self.root is None and not self.repo_id:
            raise ValueError("root must be the folder of a dataset, got None")


def open_dataset(config: DatasetConfig, task: Task) -> LeRobotDatasetMetadata:
    """A dataset's description and statistics, checked to be of the task.

    Raises:
        UserError: there is none, it is damaged, empty, or of another task.
    """
    name = config.root or config.repo_id
    if config.root is not None and not (config.root / "meta" / "info.json").is_file():
        what = "not the folder of a LeRobot dataset" if config.root.exists() else "no such folder"
        raise UserError(f"{config.root}: {what}; this command records it: {recording_command(config)}")
    try:
        if config.root is None:
            LeRobotDataset(config.repo_id)  # fetches what is not in the cache
        folder = config.root.name if config.root else ""
        meta = LeRobotDatasetMetadata(config.repo_id or f"local/{folder}", root=config.root)
    except BackwardCompatibilityError:
        raise UserError(
            f"{name}: this dataset is of LeRobot's format before v3.0; LeRobot has a converter: "
            "python -m lerobot.scripts.convert_dataset_v21_to_v30"
        ) from None
    except (*BROKEN, HTTPError) as error:
        hint = "is it whole?" if config.root else "is that its name, and is there a network?"
        raise UserError(f"{name}: this dataset cannot be opened, {hint} ({reason(error)})") from None
    if not meta.total_episodes or not meta.total_frames:
        raise UserError(f"{name}: this dataset is empty")
    _check_whole(meta, name)
    if meta.fps != task.fps:
        raise UserError(f"{name}: this dataset has {meta.fps} frames per second, {task.name} has {task.fps}")
    if config.episodes > meta.total_episodes:
        raise UserError(
            f"dataset.episodes must be at most {meta.total_episodes}, all of {name}, got {config.episodes}"
        )
    shape = tuple(meta.features.get(ACTION, {}).get("shape", ()))
    wanted = task.vector_env(1).single_action_space.shape
    if shape != wanted:
        raise UserError(
            f"{name}: its actions must be of shape {wanted}, {task.name}'s, got {shape or 'none'}"
        )
    if config.imagenet_stats:
        for camera in meta.camera_keys:
            stats_of(meta)[camera] |= {
                key: np.array(value, np.float32) for key, value in IMAGENET_STATS.items()
            }
    return meta


def recording_command(config: DatasetConfig) -> str:
    """What to type for the dataset to be at `config.root`."""
    words = shlex.split(config.recorded_by) or ["python", "collect_dataset.py"]
    if "--root" in words[:-1]:
        words[words.index("--root") + 1] = str(config.root)
    else:
        words += ["--root", str(config.root)]
    return shlex.join(words)


def _check_whole(meta: LeRobotDatasetMetadata, name: str | Path) -> None:
    """Raise UserError where the parts of the description do not fit together."""
    with reading(name):
        lengths, features = list(episodes_of(meta)["length"]), features_of(meta)
    if (len(lengths), sum(lengths)) != (meta.total_episodes, meta.total_frames):
        raise UserError(
            f"{name}: this dataset is damaged: its description says {meta.total_episodes} episodes of "
            f"{meta.total_frames} frames, its table of episodes has {len(lengths)} of {sum(lengths)}"
        )
    if missing := [key for key in features if not {"mean", "std"} <= stats_of(meta).get(key, {}).keys()]:
        raise UserError(f"{name}: this dataset is damaged: it has no statistics of {', '.join(missing)}")
    with reading(name):
        for key, feature in features.items():
            shape = (3, 1, 1) if feature.type is FeatureType.VISUAL else tuple(feature.shape)
            for part in ("mean", "std"):
                values = np.asarray(stats_of(meta)[key][part], np.float64)
                if values.shape != shape or not np.isfinite(values).all():
                    raise ValueError(f"the {part} of {key} in its statistics is not {shape} finite numbers")


def features_of(meta: LeRobotDatasetMetadata) -> dict[str, PolicyFeature]:
    """What a policy can look at or do, in LeRobot's form."""
    return dataset_to_policy_features(meta.features)


def stats_of(meta: LeRobotDatasetMetadata) -> dict[str, dict[str, Any]]:
    """Its statistics by feature: mean, std, min, max and others."""
    return meta.stats or {}


def episodes_of(meta: LeRobotDatasetMetadata) -> Any:
    """Its table of episodes."""
    if meta.episodes is None:
        raise ValueError("it has no table of episodes")
    return meta.episodes


@contextmanager
def reading(name: str | Path) -> Iterator[None]:
    """Tell in one sentence what keeps a dataset from being read in this block.

    Raises:
        UserError: it is damaged.
    """
    try:
        yield
    except BROKEN as error:
        raise UserError(f"{name}: this dataset is damaged: {reason(error)}") from None


def read_vectors(
    meta: LeRobotDatasetMetadata, names: Sequence[str], num_frames: int
) -> dict[str, np.ndarray]:
    """The first `num_frames` rows of these columns, each (num_frames, k) float32.

    Raises:
        ValueError: they are not what the description says.
    """
    tables = [pq.read_table(file, columns=["index", *names]) for file in _data_files(meta)]
    index = np.concatenate([table["index"].to_numpy() for table in tables])
    if len(index) != meta.total_frames or not np.array_equal(index, np.arange(len(index))):
        raise ValueError(f"its tables hold {len(index)} frames, its description says {meta.total_frames}")
    columns = {}
    for name in names:
        arrays = [table[name].combine_chunks() for table in tables]
        # One number per frame is stored as such, several as a list.
        values = [(a.flatten() if hasattr(a, "flatten") else a).to_numpy() for a in arrays]
        columns[name] = np.concatenate(values).reshape(len(index), -1)[:num_frames].astype(np.float32)
        if columns[name].shape[1:] != tuple(meta.features[name]["shape"]):
            raise ValueError(f"{name} has {columns[name].shape[1]} numbers per frame")
        if not np.isfinite(columns[name]).all():
            raise ValueError(f"{name} is not finite everywhere")
    return columns


def read_pictures(
    meta: LeRobotDatasetMetadata, name: str, lengths: np.ndarray, into: np.ndarray, digest: Any
) -> None:
    """Decode the pictures of a camera, and take them into a digest.

    Args:
        meta: of the dataset.
        name: of the camera.
        lengths: of the episodes to read, in frames.
        into: (num_frames, 3, height, width) uint8, where they go, RGB.
        digest: of `hashlib`.

    Raises:
        ValueError: they are too few.
    """
    read, done = (_read_video if name in meta.video_keys else _read_images), 0
    for several in read(meta, name, lengths):
        several = several[: len(into) - done]
        into[done : done + len(several)] = several
        digest.update(several.tobytes())
        done += len(several)
        if done == len(into):
            return
    raise ValueError(f"{name} has {done} pictures for {len(into)} frames")


def _read_images(meta: LeRobotDatasetMetadata, name: str, _lengths: np.ndarray) -> Iterator[np.ndarray]:
    def decode(cell: dict[str, Any]) -> np.ndarray:
        source = BytesIO(cell["bytes"]) if cell["bytes"] else meta.root / cell["path"]
        return np.asarray(Image.open(source).convert("RGB")).transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        for file in _data_files(meta):
            for rows in pq.ParquetFile(file).iter_batches(256, columns=[name]):
                yield np.stack(list(pool.map(decode, rows[name].to_pylist())))


def _read_video(meta: LeRobotDatasetMetadata, name: str, lengths: np.ndarray) -> Iterator[np.ndarray]:
    for episode, length in enumerate(lengths):
        start = episodes_of(meta)[episode][f"videos/{name}/from_timestamp"]
        times = [start + float(np.float32(frame / meta.fps)) for frame in range(length)]
        path = meta.root / meta.get_video_file_path(episode, name)
        yield decode_video_frames(path, times, TOLERANCE, "pyav", return_uint8=True).numpy()


def _data_files(meta: LeRobotDatasetMetadata) -> list[Path]:
    return sorted((meta.root / "data").glob("*/*.parquet"))
