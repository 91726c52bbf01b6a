"""A LeRobot dataset, decoded once: all its frames in tensors, from which a batch is gathered by index.

LeRobot's trainer decodes every picture anew each time it is drawn, in worker processes. PushT's datasets fit
in memory: 25,650 pictures of 96 x 96 are 709 MB. The batches are those of LeRobot's dataset, sampler and
loader, in the same order, bit for bit; with `dataset.mirror`, those of a dataset that goes on, after its
last episode, with the mirror images of all, and has the same statistics.
"""

import hashlib
import math
import os
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from torch.utils.data import BatchSampler

from act.dataset import DatasetConfig, features_of, read_pictures, read_vectors, reading
from common.errors import UserError
from envs.pusht.symmetry import mirror_points

# What the mirror takes vectors for; `ACTPlayer` refuses other inputs than these and pictures.
_POINTS = {ACTION: "agent_pos", OBS_STATE: "agent_pos", OBS_ENV_STATE: "keypoints"}


class Frames:
    """All frames of a dataset, normalised but for the pictures, which are uint8 until they are drawn.

    Args:
        meta: of the dataset.
        inputs: features to hold.
        chunk_size: actions per sample.
        preprocessor: LeRobot's; normalises.
        device: where batches come out.
        config: which episodes, their mirror images, and the memory.
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
        self.lengths = np.array(meta.episodes["length"])[: config.episodes or None]  # of recorded episodes
        ends = np.cumsum(self.lengths)
        self.num_recorded = int(ends[-1])
        self.mirror = config.mirror
        self.num_frames = self.num_recorded * (1 + self.mirror)
        # Of each frame: the last one of its episode.
        last = np.repeat(ends - 1, self.lengths)
        last = np.concatenate([last, last + self.num_recorded]) if self.mirror else last
        self.last = torch.from_numpy(last).to(device)

        _check_features(meta, inputs)
        cameras = [name for name, feature in inputs.items() if feature.type is FeatureType.VISUAL]
        vectors = [name for name in inputs if name not in cameras] + [ACTION]
        self.memory_gb = config.memory_gb
        shapes = {name: (self.num_recorded, *inputs[name].shape) for name in cameras}
        self.gigabytes = sum(math.prod(shape) for shape in shapes.values()) / 1e9  # of pictures
        in_memory = partial(torch.empty, dtype=torch.uint8)
        room = in_memory if self.gigabytes <= self.memory_gb else partial(_map_file, folder)
        self.pictures = {name: room(shape) for name, shape in shapes.items()}

        points = {name: torch.from_numpy(array) for name, array in self._read(meta, vectors, ends).items()}
        normal = preprocessor(points)  # per number, so it can be done once for all
        self.vectors = {name: normal[name].to(device) for name in vectors}
        self.pictures = {name: _place(pictures, device) for name, pictures in self.pictures.items()}

    def _read(
        self, meta: LeRobotDatasetMetadata, vectors: Sequence[str], ends: np.ndarray
    ) -> dict[str, np.ndarray]:
        """Fill `pictures`, set `fingerprint`, and return the vectors, each (num_frames, k), as recorded."""
        digest = hashlib.sha256(ends.tobytes())
        for name in (*self.pictures, *vectors):  # by what they are normalised
            for _, values in sorted(meta.stats[name].items()):
                digest.update(np.asarray(values, np.float64).tobytes())
        with reading(meta.root):
            points = read_vectors(meta, vectors, self.num_recorded)
            for array in points.values():
                digest.update(array.tobytes())
            for name, pictures in self.pictures.items():
                read_pictures(meta, name, self.lengths, np.asarray(pictures), digest)
        if self.mirror:
            digest.update(b"mirror")
            seen = {name: mirror_points(_POINTS[name], a, bool(self.pictures)) for name, a in points.items()}
            points = {name: np.concatenate([array, seen[name]]) for name, array in points.items()}
        self.fingerprint = digest.hexdigest()
        return points

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
        if self.mirror:
            mirrored = (here >= self.num_recorded)[:, None, None, None]
            here, indices = here % self.num_recorded, indices % self.num_recorded
        for name, pictures in self.pictures.items():
            if isinstance(pictures, np.memmap):
                chosen = torch.from_numpy(pictures[indices.numpy()])
            else:
                chosen = pictures[here if pictures.device == here.device else indices]
            chosen = chosen.to(self.device, non_blocking=True)
            if self.mirror:
                image = chosen.flip(2, 3).transpose(2, 3)  # across the diagonal from the lower left
                chosen = torch.where(mirrored, image, chosen)
            drawn[name] = chosen.to(torch.float32) / 255.0
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
