"""A LeRobot dataset on the disk: opened, checked against the task, read from its first frame to its last."""

import shlex
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from datasets import Dataset
from httpx import HTTPError
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.io_utils import cast_stats_to_numpy
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.utils import DatasetInfo
from lerobot.utils.constants import ACTION, IMAGENET_STATS
from lerobot.utils.feature_utils import dataset_to_policy_features

from common.bounds import Count, CountOrZero, NotNegative
from common.errors import UserError, reason
from common.flags import typed
from common.lerobot_files import (
    DAMAGE,
    INFO,
    STATS,
    check_frames,
    check_statistics,
    decode_picture,
    inside,
    numbers,
    parquet_files,
    read_episodes,
    read_info,
    read_table,
    reading,
)
from common.lerobot_videos import read_video
from common.untrusted import load_json, open_regular
from envs.interfaces import Task


@dataclass(frozen=True)
class DatasetConfig:
    """What to learn from."""

    root: Path | None = None  # folder of a LeRobot dataset; None: repo_id's, from LeRobot's cache or the Hub
    repo_id: str = ""  # its name on the Hub; with root, checkpoints note it
    episodes: CountOrZero = 0  # learn from the first so many; 0: all
    recorded_by: str = ""  # the command that records it; shown where the dataset is missing
    mirror: bool = False  # learn from each episode a second time, as seen in the mirror; if the task has one
    stride: Count = 1  # frames from one sample to the next: the steps per decision of a steered demonstrator
    imagenet_stats: bool = True  # normalise pictures as ImageNet's; of ACT and diffusion alone
    memory_gb: NotNegative = 8.0  # of decoded pictures held in memory; more lie in a file beside the run

    def validate(self) -> None:
        if self.root is None and not self.repo_id:
            raise ValueError("root must be the folder of a dataset, got None")


def open_dataset(config: DatasetConfig, task: Task) -> LeRobotDatasetMetadata:
    """A dataset's description and statistics, checked to have the task's frame rate and actions.

    Raises:
        UserError: there is none, it is damaged, empty, or has others.
    """
    name = config.root or config.repo_id
    with reading(name):
        if config.root is not None and not (config.root / INFO).is_file():
            what = "not the folder of a LeRobot dataset" if config.root.exists() else "no such folder"
            raise UserError(f"{config.root}: {what}; this command records it: {recording_command(config)}")
        repo_id = config.repo_id or "local/dataset"
        meta = _Description(repo_id, root=config.root) if config.root else _fetch(repo_id)
    if not meta.total_episodes or not meta.total_frames:
        raise UserError(f"{name}: this dataset is empty")
    if meta.fps != task.fps:
        raise UserError(f"{name}: this dataset has {meta.fps} frames per second, {task.name} has {task.fps}")
    _check_whole(meta)
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
    ours = "python collect_dataset.py"  # what else a stranger's YAML may name is not advice
    words = shlex.split(config.recorded_by if config.recorded_by.startswith(f"{ours} ") else ours)
    at = words.index("--root") if "--root" in words[:-1] else len(words)
    words[at : at + 2] = shlex.split(typed("--root", config.root))
    return shlex.join(words)


class _Description(LeRobotDatasetMetadata):
    """LeRobot's, read by `common.lerobot_files`: from the disk alone, and without a cache."""

    def _load_metadata(self) -> None:
        if self._requested_root is None and not (self.root / INFO).is_file():
            raise FileNotFoundError(self.root / INFO)  # for LeRobot, which asks the Hub then
        info = read_info(self.root)
        for feature in info["features"].values():
            if feature["dtype"] in ("image", "video") and not feature.get("names"):
                channel_last = feature["shape"][-1] in (1, 3, 4)  # converters leave the names out
                axes = ["height", "width"]
                feature["names"] = [*axes, "channel"] if channel_last else ["channel", *axes]
        self.info = DatasetInfo.from_dict(info)
        self.tasks = None
        self.episodes = Dataset(read_episodes(self.root, info)) if info["total_episodes"] else None
        self.stats = load_json(self.root / STATS)


def _fetch(repo_id: str) -> _Description:
    """The description of a dataset in LeRobot's cache, or on the Hub: then all of it is fetched."""
    try:
        meta = _Description(repo_id)
        LeRobotDataset(repo_id)
    except (*DAMAGE, HTTPError) as error:
        hint = "is that its name, and is there a network?"
        raise UserError(f"{repo_id}: this dataset cannot be opened, {hint} ({reason(error)})") from None
    return meta


def _check_whole(meta: LeRobotDatasetMetadata) -> None:
    """Raise UserError where frames, features and statistics do not fit the table of episodes."""
    root = meta.root
    check_frames(root, np.array(episodes_of(meta)["length"]), meta.fps)
    with reading(root / INFO):
        features = features_of(meta)
    with reading(root / STATS):
        shapes = {
            key: (3, 1, 1) if feature.type is FeatureType.VISUAL else tuple(feature.shape)
            for key, feature in features.items()
        }
        check_statistics(stats_of(meta), shapes, ("mean", "std"))
        meta.stats = cast_stats_to_numpy(stats_of(meta))


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


def read_vectors(
    meta: LeRobotDatasetMetadata, names: Sequence[str], num_frames: int
) -> dict[str, np.ndarray]:
    """The first `num_frames` rows of these columns, each (num_frames, k) float32.

    Raises:
        ValueError: they are not what the description says.
    """
    tables = [read_table(file, names) for file in parquet_files(meta.root / "data")]
    columns = {}
    for name in names:
        (size,) = meta.features[name]["shape"]
        values = np.concatenate([numbers(table, name, size) for table in tables])
        columns[name] = values[:num_frames].astype(np.float32)
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
    done = 0
    for several in stored_pictures(meta, name, lengths):
        several = several[: len(into) - done]
        into[done : done + len(several)] = several
        digest.update(several.tobytes())
        done += len(several)
        if done == len(into):
            return
    raise ValueError(f"{name} has {done} pictures for {len(into)} frames")


def stored_pictures(meta: LeRobotDatasetMetadata, name: str, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """The pictures of a camera, some at a time: (k, 3, height, width) uint8 RGB.

    Args:
        meta: of the dataset.
        name: of the camera.
        lengths: of the episodes to read, in frames.
    """
    return (_read_video if name in meta.video_keys else _read_images)(meta, name, lengths)


def _read_images(meta: LeRobotDatasetMetadata, name: str, _lengths: np.ndarray) -> Iterator[np.ndarray]:
    height, width = features_of(meta)[name].shape[1:]

    def decode(cell: dict[str, Any]) -> np.ndarray:
        if cell["bytes"]:
            return decode_picture(BytesIO(cell["bytes"]), height, width).transpose(2, 0, 1)
        with open_regular(inside(meta.root, cell["path"])) as file:
            return decode_picture(file, height, width).transpose(2, 0, 1)

    with ThreadPoolExecutor() as pool:
        for path in parquet_files(meta.root / "data"):
            for rows in pq.ParquetFile(path).iter_batches(256, columns=[name]):
                yield np.stack(list(pool.map(decode, rows[name].to_pylist())))


def _read_video(meta: LeRobotDatasetMetadata, name: str, lengths: np.ndarray) -> Iterator[np.ndarray]:
    height, width = features_of(meta)[name].shape[1:]
    for episode, length in enumerate(lengths):
        start = episodes_of(meta)[episode][f"videos/{name}/from_timestamp"]
        times = [start + float(np.float32(frame / meta.fps)) for frame in range(length)]
        path = inside(meta.root, str(meta.get_video_file_path(episode, name)))
        yield read_video(path, times, meta.fps, height, width)
