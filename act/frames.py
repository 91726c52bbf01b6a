"""A LeRobot dataset, decoded once: all its frames in tensors, from which a batch is gathered by index.

LeRobot's trainer decodes every picture anew each time it is drawn, in worker processes. PushT's datasets fit
in memory: 25,650 pictures of 96 x 96 are 709 MB. The batches are those of LeRobot's dataset, sampler and
loader, in the same order, bit for bit.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from accelerate.data_loader import BatchSamplerShard
from httpx import HTTPError
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.video_utils import decode_video_frames
from lerobot.utils.constants import ACTION, IMAGENET_STATS
from lerobot.utils.feature_utils import dataset_to_policy_features
from PIL import Image
from torch.utils.data import BatchSampler

from common.errors import UserError

FPS = 10  # of PushT
ACTION_SHAPE = (2,)  # a target on the board
TOLERANCE = 1e-4  # seconds that a video's frame may be off, LeRobot's default
# What reading a broken file raises: pyarrow's errors are ValueErrors or OSErrors, PyAV's are OSErrors.
BROKEN = (OSError, ValueError, KeyError, TypeError, IndexError, RuntimeError)


@dataclass(frozen=True)
class DatasetConfig:
    """What to learn from."""

    root: Path | None = None  # folder of a LeRobot dataset; None: repo_id's, from LeRobot's cache or the Hub
    repo_id: str = ""  # its name on the Hub; empty: local/<folder>
    episodes: int = 0  # learn from the first so many; 0: all
    imagenet_stats: bool = True  # normalise pictures as ImageNet's are, not by the dataset's own numbers
    memory_gb: float = 8.0  # of decoded pictures held in memory; larger ones lie in a file beside the run

    def validate(self) -> None:
        if self.root is None and not self.repo_id:
            raise ValueError("root must be the folder of a dataset, got None")
        if self.episodes < 0:
            raise ValueError(f"episodes must not be negative, got {self.episodes}")
        if self.memory_gb < 0:
            raise ValueError(f"memory_gb must not be negative, got {self.memory_gb}")


def open_dataset(config: DatasetConfig) -> LeRobotDatasetMetadata:
    """A dataset's description and statistics, checked to be PushT's.

    Raises:
        UserError: there is none, it is damaged, empty, or of another task.
    """
    name = config.root or config.repo_id
    if config.root is not None and not (config.root / "meta" / "info.json").is_file():
        what = "not the folder of a LeRobot dataset" if config.root.exists() else "no such folder"
        raise UserError(f"{config.root}: {what}; collect_dataset.py records one")
    try:
        if config.root is None:
            LeRobotDataset(config.repo_id)  # fetches what is not in the cache
        meta = LeRobotDatasetMetadata(config.repo_id or f"local/{config.root.name}", root=config.root)
    except (*BROKEN, HTTPError) as error:
        hint = "is it whole?" if config.root else "is that its name, and is there a network?"
        raise UserError(f"{name}: this dataset cannot be opened, {hint} ({_line(error)})") from None
    if not meta.total_episodes or not meta.total_frames:
        raise UserError(f"{name}: this dataset is empty")
    _check_whole(meta, name)
    if meta.fps != FPS:
        raise UserError(f"{name}: this dataset has {meta.fps} frames per second, PushT has {FPS}")
    if config.episodes > meta.total_episodes:
        raise UserError(
            f"dataset.episodes must be at most {meta.total_episodes}, all of {name}, got {config.episodes}"
        )
    shape = tuple(meta.features.get(ACTION, {}).get("shape", ()))
    if shape != ACTION_SHAPE:
        raise UserError(
            f"{name}: its actions must be of shape {ACTION_SHAPE}, PushT's, got {shape or 'none'}"
        )
    if config.imagenet_stats:
        for camera in meta.camera_keys:
            meta.stats[camera] |= {key: np.array(value, np.float32) for key, value in IMAGENET_STATS.items()}
    return meta


def _check_whole(meta: LeRobotDatasetMetadata, name: str | Path) -> None:
    """Raise UserError where the parts of the description do not fit together."""
    try:
        lengths, features = list(meta.episodes["length"]), features_of(meta)
    except BROKEN as error:
        raise UserError(f"{name}: this dataset is damaged: {_line(error)}") from None
    if (len(lengths), sum(lengths)) != (meta.total_episodes, meta.total_frames):
        raise UserError(
            f"{name}: this dataset is damaged: its description says {meta.total_episodes} episodes of "
            f"{meta.total_frames} frames, its table of episodes has {len(lengths)} of {sum(lengths)}"
        )
    if missing := [key for key in features if not {"mean", "std"} <= (meta.stats or {}).get(key, {}).keys()]:
        raise UserError(f"{name}: this dataset is damaged: it has no statistics of {', '.join(missing)}")


def features_of(meta: LeRobotDatasetMetadata) -> dict[str, PolicyFeature]:
    """What a policy can look at or do, in LeRobot's form."""
    return dataset_to_policy_features(meta.features)


class Frames:
    """All frames of a dataset, normalised but for the pictures, which are uint8 until they are drawn.

    Args:
        meta: of the dataset.
        inputs: features to hold.
        chunk_size: actions per sample.
        preprocessor: LeRobot's; normalises.
        device: where batches come out.
        config: episodes and memory.
        folder: for the file of what is too large for the memory.

    Raises:
        UserError: the dataset is damaged, or the disk is full.
    """

    def __init__(
        self,
        meta: LeRobotDatasetMetadata,
        inputs: dict[str, PolicyFeature],
        chunk_size: int,
        preprocessor: Any,
        device: torch.device,
        config: DatasetConfig,
        folder: Path,
    ) -> None:
        self.preprocessor = preprocessor
        self.device = device
        self.offsets = torch.arange(chunk_size, device=device)
        self.lengths = np.array(meta.episodes["length"])[: config.episodes or None]
        ends = np.cumsum(self.lengths)
        self.num_frames = int(ends[-1])
        # Of each frame: the last one of its episode.
        self.last = torch.from_numpy(np.repeat(ends - 1, self.lengths)).to(device)

        if missing := set(inputs) - set(meta.features):
            raise UserError(f"{meta.root}: has no {', '.join(sorted(missing))}, which the policy looks at")
        cameras = [name for name, feature in inputs.items() if feature.type is FeatureType.VISUAL]
        vectors = [name for name in inputs if name not in cameras] + [ACTION]
        shapes = {name: (self.num_frames, *features_of(meta)[name].shape) for name in cameras}
        self.gigabytes = sum(math.prod(shape) for shape in shapes.values()) / 1e9  # of pictures
        self.memory_gb = config.memory_gb
        room = (
            partial(torch.empty, dtype=torch.uint8)
            if self.gigabytes <= self.memory_gb
            else partial(_map_file, folder)
        )
        digest = _digest(meta, [*inputs, ACTION], ends)
        try:
            raw = _read_vectors(meta, vectors, self.num_frames)
            for array in raw.values():
                digest.update(array.tobytes())
            self.pictures = {name: room(shape) for name, shape in shapes.items()}
            for name, pictures in self.pictures.items():
                _read_pictures(meta, name, self.lengths, np.asarray(pictures), digest)
        except BROKEN as error:
            raise UserError(f"{meta.root}: this dataset is damaged: {_line(error)}") from None
        self.fingerprint = digest.hexdigest()
        # The normalisation is per number, so it can be done once for all.
        normal = preprocessor({name: torch.from_numpy(array) for name, array in raw.items()})
        self.vectors = {name: normal[name].to(device) for name in vectors}
        self.pictures = {name: _place(pictures, device) for name, pictures in self.pictures.items()}

    def batch(self, indices: torch.Tensor) -> dict[str, torch.Tensor]:
        """The samples that begin at these frames, as LeRobot's loader and preprocessor make them.

        Args:
            indices: (B,) int64, on the CPU.

        Returns:
            every input (B, ...), `action` (B, chunk_size, 2), which repeats an episode's last one, and
            `action_is_pad` (B, chunk_size), which says where.
        """
        here = indices.to(self.device, non_blocking=True)
        steps, last = here[:, None] + self.offsets, self.last[here][:, None]
        batch = {name: vector[here] for name, vector in self.vectors.items() if name != ACTION}
        if self.pictures:
            batch |= self._draw(indices, here)
        batch[ACTION] = self.vectors[ACTION][torch.minimum(steps, last)]
        batch["action_is_pad"] = steps > last
        return batch

    def place(self) -> str:
        """Where the decoded frames lie, in words."""
        if not self.pictures:
            return f"in memory on {self.device}"
        pictures = next(iter(self.pictures.values()))
        if isinstance(pictures, np.memmap):
            return (
                f"{self.gigabytes:,.2f} GB in a file beside the run, for dataset.memory_gb is "
                f"{self.memory_gb:g}: the disk may set the pace"
            )
        return f"{self.gigabytes:,.2f} GB in memory on {pictures.device}"

    def _draw(self, indices: torch.Tensor, here: torch.Tensor) -> dict[str, torch.Tensor]:
        drawn = {}
        for name, pictures in self.pictures.items():
            if isinstance(pictures, np.memmap):
                chosen = torch.from_numpy(pictures[indices.numpy()])
            else:
                chosen = pictures[here if pictures.device == self.device else indices]
            drawn[name] = chosen.to(self.device, non_blocking=True).to(torch.float32) / 255.0
        normal = self.preprocessor(drawn)
        return {name: normal[name] for name in drawn}


class Order:
    """Which frames make which batch: LeRobot's order, a function of seed and epoch alone.

    Args:
        num_frames: of the dataset.
        batch_size: per process; an epoch's last batch may be smaller.
        seed: of the training.
        num_processes: that share the epoch; they take batches in turns.
        process_index: this one.
    """

    def __init__(
        self, num_frames: int, batch_size: int, seed: int, num_processes: int = 1, process_index: int = 0
    ) -> None:
        self.num_frames = num_frames
        self.batch_size = batch_size
        self.seed = seed
        self.processes = num_processes, process_index

    def epoch(self, epoch: int, start: int = 0) -> list[torch.Tensor]:
        """The batches (batch_size,) int64 of an epoch, from its sample `start` on."""
        epoch_seed = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(epoch_seed))
        order = torch.randperm(self.num_frames, generator=generator)
        done, odd = divmod(start, self.batch_size * self.processes[0])
        if odd:  # LeRobot stopped there, with other batches or processes: the rest is shared anew
            order, done = order[start:], 0
        if self.processes[0] == 1:
            return list(order.split(self.batch_size))[done:]
        batches = BatchSampler(order.tolist(), self.batch_size, drop_last=False)
        return [torch.tensor(batch) for batch in BatchSamplerShard(batches, *self.processes)][done:]


def _read_vectors(
    meta: LeRobotDatasetMetadata, names: Sequence[str], num_frames: int
) -> dict[str, np.ndarray]:
    """Columns (num_frames, k) float32."""
    tables = [pq.read_table(file, columns=["index", *names]) for file in _data_files(meta)]
    index = np.concatenate([table["index"].to_numpy() for table in tables])
    if len(index) != meta.total_frames or not np.array_equal(index, np.arange(len(index))):
        raise ValueError(f"its tables hold {len(index)} frames, its description says {meta.total_frames}")
    columns = {}
    for name in names:
        values = [table[name].combine_chunks().flatten().to_numpy() for table in tables]
        columns[name] = np.concatenate(values).reshape(len(index), -1)[:num_frames].astype(np.float32)
        if columns[name].shape[1:] != tuple(meta.features[name]["shape"]):
            raise ValueError(f"{name} has {columns[name].shape[1]} numbers per frame")
        if not np.isfinite(columns[name]).all():
            raise ValueError(f"{name} is not finite everywhere")
    return columns


def _digest(meta: LeRobotDatasetMetadata, names: Sequence[str], ends: np.ndarray) -> Any:
    """A SHA-256 of where the episodes end and of the statistics by which these features are normalised."""
    digest = hashlib.sha256(ends.tobytes())
    for name in names:
        for _, values in sorted(meta.stats[name].items()):
            digest.update(np.asarray(values, np.float64).tobytes())
    return digest


def _map_file(folder: Path, shape: tuple[int, ...]) -> np.memmap:
    """Room for pictures in a file without a name: gone with the process, however that ends.

    The disk gives the room at once; a disk that is full later kills the process that writes.

    Raises:
        UserError: it does not have that room.
    """
    size = math.prod(shape)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # macOS has none
                os.posix_fallocate(file.fileno(), 0, size)
            file.truncate(size)
            return np.memmap(file, np.uint8, "r+", shape=shape)
    except OSError as error:
        raise UserError(
            f"{folder}: the disk has no room for {size / 1e9:.2g} GB of decoded pictures "
            f"({error.strerror}): free some, or hold them in memory with a larger dataset.memory_gb"
        ) from None


def _read_pictures(
    meta: LeRobotDatasetMetadata, name: str, lengths: np.ndarray, into: np.ndarray, digest: Any
) -> None:
    """Decode all pictures of a camera, (num_frames, 3, height, width) uint8 RGB."""
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
        start = meta.episodes[episode][f"videos/{name}/from_timestamp"]
        times = [start + float(np.float32(frame / meta.fps)) for frame in range(length)]
        path = meta.root / meta.get_video_file_path(episode, name)
        yield decode_video_frames(path, times, TOLERANCE, "pyav", return_uint8=True).numpy()


def _data_files(meta: LeRobotDatasetMetadata) -> list[Path]:
    return sorted((meta.root / "data").glob("*/*.parquet"))


def _place(pictures: torch.Tensor | np.memmap, device: torch.device) -> torch.Tensor | np.memmap:
    """On the device where it takes no more than half of what is free there."""
    if device.type != "cuda" or isinstance(pictures, np.memmap):
        return pictures
    free, _ = torch.cuda.mem_get_info(device)
    return pictures.to(device) if pictures.nbytes < free / 2 else pictures.pin_memory()


def _line(error: Exception) -> str:
    """What an exception says, in one line of bearable length."""
    return " ".join(str(error).split())[:200] or type(error).__name__
