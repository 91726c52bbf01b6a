"""A LeRobot dataset, decoded once: all its frames in tensors, from which a batch is gathered by index.

LeRobot's trainer decodes a picture each time it is drawn, in worker processes. Small datasets fit in memory:
25,650 pictures of 96 x 96 are 709 MB. The samples are those of LeRobot's dataset and loader, bit for bit.
With `dataset.mirror` they are those of a dataset that has the mirror images of all episodes after its last
one, and the same statistics. `dataset.stride` leaves out those that begin between its frames.
"""

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION

from act.dataset import (
    DatasetConfig,
    episodes_of,
    features_of,
    read_pictures,
    read_vectors,
    stats_of,
)
from act.kinds import Batch, chunk_size, find_kind
from common.errors import UserError
from common.lerobot_files import check_extremes, read_sentences, reading
from envs.interfaces import MirroredTask, Task

SAMPLES_AT_A_TIME = 1_024


class Frames:
    """All frames of a dataset, normalised but for the pictures, which are uint8 until they are drawn.

    Args:
        meta: of the dataset.
        policy_config: LeRobot's; which features and which of their frames make a sample.
        preprocessor: LeRobot's; normalises.
        device: where batches come out.
        config: which episodes, their mirror images, and the memory.
        folder: for the file of what is too large for the memory.
        task: that the dataset is of.

    Raises:
        UserError: the dataset is damaged, the disk is full, or there is no mirror.
    """

    def __init__(
        self,
        meta: LeRobotDatasetMetadata,
        policy_config: PreTrainedConfig,
        preprocessor: Any,
        device: torch.device,
        config: DatasetConfig,
        folder: Path,
        task: Task,
    ) -> None:
        if config.mirror and not isinstance(task, MirroredTask):
            raise UserError(f"dataset.mirror must be false: {task.name} has no mirror image")
        self.mirror = task if config.mirror and isinstance(task, MirroredTask) else None
        self.raw_names = task.lerobot_names
        self.preprocessor = preprocessor
        self.device = device
        self.chunk_size = chunk_size(policy_config)
        self.action_offsets = torch.tensor(policy_config.action_delta_indices, device=device)
        history = policy_config.observation_delta_indices
        self.observation_offsets = None if history is None else torch.tensor(history)
        # Of recorded episodes.
        self.lengths = np.array(episodes_of(meta)["length"])[: config.episodes or None]
        ends = np.cumsum(self.lengths)
        self.num_recorded = int(ends[-1])
        self.num_frames = 2 * self.num_recorded if self.mirror else self.num_recorded
        # Of each frame: the first and the last one of its episode.
        bounds = np.repeat([ends - self.lengths, ends - 1], self.lengths, axis=1)
        if self.mirror:
            bounds = np.concatenate([bounds, bounds + self.num_recorded], axis=1)
        self.bounds = torch.from_numpy(bounds)
        self.device_bounds = self.bounds.to(device)
        if config.stride > 1 and config.stride >= self.lengths.max():
            raise UserError(
                f"dataset.stride must be below {self.lengths.max()}, the frames of the longest episode, "
                f"got {config.stride}"
            )
        frames = torch.arange(self.num_frames)
        self.starts = frames[(frames - self.bounds[0]) % config.stride == 0]  # a sample begins at each
        self.num_samples = len(self.starts)

        language = find_kind(policy_config.type).language
        self.sentences: list[str] = []  # of the dataset, where the policy reads what is to be done
        self.sentence_of = torch.zeros(0, dtype=torch.int64)  # the number of each recorded frame's

        inputs = policy_config.input_features or {}
        _check_features(meta, inputs)
        cameras = [name for name, feature in inputs.items() if feature.type is FeatureType.VISUAL]
        vectors = [name for name in inputs if name not in cameras] + [ACTION]
        self.memory_gb = config.memory_gb
        shapes = {name: (self.num_recorded, *inputs[name].shape) for name in cameras}
        self.gigabytes = sum(math.prod(shape) for shape in shapes.values()) / 1e9  # of pictures
        in_memory = partial(torch.empty, dtype=torch.uint8)
        room = in_memory if self.gigabytes <= self.memory_gb else partial(_map_file, folder)
        self.pictures = {name: room(shape) for name, shape in shapes.items()}

        read = self._read(meta, vectors, ends, with_language=bool(language))
        points: dict[str, Any] = {name: torch.from_numpy(array) for name, array in read.items()}
        normal = preprocessor(points | self._said())  # per number and sentence, so once for all
        self.vectors = {name: normal[name].to(device) for name in vectors}
        self.tokens = {name: normal[name].to(device) for name in language}  # (sentences, longest) each
        self.sentence_of = self.sentence_of.to(device)
        self.pictures = {name: _place(pictures, device) for name, pictures in self.pictures.items()}

    def _read(
        self, meta: LeRobotDatasetMetadata, vectors: Sequence[str], ends: np.ndarray, with_language: bool
    ) -> dict[str, np.ndarray]:
        """Fill `pictures`, set `fingerprint`, and return the vectors, each (num_frames, k), as recorded.

        With language also set `sentences` and `sentence_of`; without, they are no part of the fingerprint.
        """
        digest = hashlib.sha256(ends.tobytes())
        for name in (*self.pictures, *vectors):  # by what they are normalised
            for _, values in sorted(stats_of(meta)[name].items()):
                digest.update(np.asarray(values, np.float64).tobytes())
        with reading(meta.root):
            points = read_vectors(meta, vectors, self.num_recorded)
            for name, array in points.items():
                check_extremes(name, array, stats_of(meta)[name])
                digest.update(array.tobytes())
            for name, pictures in self.pictures.items():
                read_pictures(meta, name, self.lengths, np.asarray(pictures), digest)
            if with_language:
                self.sentences, which = read_sentences(meta.root, self.num_recorded)
                self.sentence_of = torch.from_numpy(which)
                digest.update(json.dumps(self.sentences).encode())
                digest.update(which.tobytes())
        if self.mirror:
            digest.update(b"mirror")
            for name, array in points.items():
                seen = self.mirror.mirror_feature(self.raw_names.get(name, name), array, bool(self.pictures))
                points[name] = np.concatenate([array, seen])
        if self.num_samples < self.num_frames:
            digest.update(self.starts.numpy().tobytes())
        self.fingerprint = digest.hexdigest()
        return points

    def samples(self) -> Iterator[Batch]:
        """All samples, each once, many at a time."""
        return (self.batch(indices) for indices in torch.arange(self.num_samples).split(SAMPLES_AT_A_TIME))

    def batch(self, indices: torch.Tensor) -> Batch:
        """Samples as LeRobot's loader and preprocessor make them.

        Args:
            indices: (B,) int64 of samples, which are frames where `dataset.stride` is 1; on the CPU.

        Returns:
            every input (B, ...) float32; tokens of the frames' sentences (B, longest sentence of the
            dataset) int64 and which of them are no padding, bool; `action` (B, chunk_size, A), an episode's
            last one repeated beyond its end; `action_is_pad` (B, chunk_size) bool, where that is.
        """
        indices = self.starts[indices]
        here = indices.to(self.device, non_blocking=True)
        seen = self._seen(here, self.device_bounds)
        batch = {name: vector[seen] for name, vector in self.vectors.items() if name != ACTION}
        if self.pictures:
            batch |= self._draw(self._seen(indices, self.bounds), seen)
        if self.tokens:
            which = self.sentence_of[here % self.num_recorded]
            batch |= {name: tokens[which] for name, tokens in self.tokens.items()}
        first, last = self.device_bounds[:, here, None]
        steps = here[:, None] + self.action_offsets
        batch[ACTION] = self.vectors[ACTION][steps.clamp(first, last)]
        batch["action_is_pad"] = (steps < first) | (steps > last)
        return batch

    def _seen(self, indices: torch.Tensor, bounds: torch.Tensor) -> torch.Tensor:
        """The frames that the samples at `indices` (B,) see: (B,), or (B, T) for a policy with a history."""
        if self.observation_offsets is None:
            return indices
        first, last = bounds[:, indices, None]
        return (indices[:, None] + self.observation_offsets.to(indices.device)).clamp(first, last)

    def _said(self, at_most: int | None = None) -> dict[str, list[str]]:
        """Of the dataset's sentences so many, as the preprocessor asks for them; nothing if it does not."""
        return {"task": self.sentences[:at_most]} if self.sentences else {}

    def place(self) -> str:
        """Where the decoded frames lie, in words."""
        if not self.pictures:
            return f"in memory on {self.device}"
        pictures = next(iter(self.pictures.values()))
        if isinstance(pictures, np.memmap):
            return (
                f"{self.gigabytes:,.2f} GB in a file beside the run, because dataset.memory_gb is "
                f"{self.memory_gb:g}; reading may limit the speed"
            )
        return f"{self.gigabytes:,.2f} GB in memory on {pictures.device}"

    def _draw(self, indices: torch.Tensor, here: torch.Tensor) -> Batch:
        """Normalised pictures of these frames, which are given on the CPU and on the device."""
        drawn = {}
        mirrored = (here >= self.num_recorded)[..., None, None, None]
        here, indices = here % self.num_recorded, indices % self.num_recorded
        for name, pictures in self.pictures.items():
            if isinstance(pictures, np.memmap):
                chosen = torch.from_numpy(pictures[indices.numpy()])
            else:
                chosen = pictures[here if pictures.device == here.device else indices]
            chosen = chosen.to(self.device, non_blocking=True)
            if self.mirror:
                chosen = torch.where(mirrored, self.mirror.mirror_pictures(chosen), chosen)
            drawn[name] = chosen.to(torch.float32) / 255.0
        normal = self.preprocessor(drawn | self._said(at_most=1))
        return {name: normal[name] for name in drawn}


def _check_features(meta: LeRobotDatasetMetadata, inputs: dict[str, PolicyFeature]) -> None:
    """Raise UserError where the dataset has not what the policy looks at."""
    there = features_of(meta)
    if missing := set(inputs) - set(there):
        raise UserError(f"{meta.root}: has no {', '.join(sorted(missing))}, which the policy looks at")
    for name, feature in inputs.items():
        ours, wanted = tuple(there[name].shape), tuple(feature.shape)
        if ours != wanted:
            raise UserError(f"{meta.root}: has {name} of shape {ours}, the policy looks at one of {wanted}")


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


def _place(pictures: torch.Tensor | np.memmap, device: torch.device) -> torch.Tensor | np.memmap:
    """On the device where it takes no more than half of what is free there."""
    if device.type != "cuda" or isinstance(pictures, np.memmap):
        return pictures
    free, _ = torch.cuda.mem_get_info(device)
    return pictures.to(device) if pictures.nbytes < free / 2 else pictures
