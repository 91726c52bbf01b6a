"""Pictures of a replay on disk, in files that later checkpoints share.

All pictures that were ever stored are counted. A chunk holds so many in a row and is named by its number. A
full one never changes, so a new checkpoint links it from the one before. A chunk without a picture that the
replay still holds is left out.
"""

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch

from common.untrusted import open_regular, reading

CHUNK_BYTES = 4 * 2**20  # at most, unless one picture is larger


def save_chunks(
    frames: torch.Tensor, serials: np.ndarray, total: int, folder: Path, previous: Path | None
) -> None:
    """Write the pictures into a new folder.

    Args:
        frames: (N, H, W, C) uint8, of any device.
        serials: (N,) int, which of all pictures ever stored each is; -1: none.
        total: pictures ever stored.
        previous: the folder in which the same replay was saved, or from which it was loaded, before.

    Raises:
        OSError: they cannot be written.
    """
    folder.mkdir()
    for chunk, count, places in _chunks(frames, serials, total):
        path = folder / _name(chunk)
        if previous and _linked(previous, path, count * frames[0].nbytes):
            continue
        content = np.zeros((count, *frames.shape[1:]), np.uint8)  # zeros: overwritten, nobody reads them
        held = frames.index_select(0, torch.from_numpy(places).to(frames.device)).cpu().numpy()
        content[serials[places] % _length(frames)] = held
        with path.open("xb") as file:
            file.write(content)


def load_chunks(frames: torch.Tensor, serials: np.ndarray, total: int, folder: Path) -> None:
    """Read the pictures that `save_chunks` wrote into `frames`.

    Raises:
        UserError: a file is missing, or not as long as it must be.
    """
    for chunk, count, places in _chunks(frames, serials, total):
        path, size = folder / _name(chunk), count * frames[0].nbytes
        with reading(path), open_regular(path) as file:
            if (there := os.fstat(file.fileno()).st_size) != size:
                raise ValueError(f"it has {there:,} bytes in place of {size:,}")
            content = np.frombuffer(file.read(size), np.uint8).reshape(count, *frames.shape[1:])
            chosen = torch.from_numpy(content[serials[places] % _length(frames)])
        frames.index_copy_(0, torch.from_numpy(places).to(frames.device), chosen.to(frames.device))


def _chunks(frames: torch.Tensor, serials: np.ndarray, total: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Of each chunk that is needed: its number, its pictures, and the places of those that are still held."""
    length = _length(frames)
    oldest_first = np.argsort(serials)
    oldest_first = oldest_first[serials[oldest_first] >= 0]
    numbers, firsts = np.unique(serials[oldest_first] // length, return_index=True)
    for chunk, places in zip(numbers.tolist(), np.split(oldest_first, firsts)[1:], strict=True):
        yield chunk, min(length, total - chunk * length), places


def _length(frames: torch.Tensor) -> int:
    """Pictures in a full chunk."""
    return max(CHUNK_BYTES // frames[0].nbytes, 1)


def _name(chunk: int) -> str:
    return f"{chunk:08d}.uint8"


def _linked(previous: Path, path: Path, size: int) -> bool:
    """Whether the file of this name in the folder `previous` could be linked to `path`.

    A link in its place is not followed. A file of another size is none of ours, or has fewer pictures. Where
    the disk has no hard links, the pictures are written from the memory.
    """
    with suppress(OSError):
        there = (previous / path.name).lstat()
        if stat.S_ISREG(there.st_mode) and there.st_size == size:
            os.link(previous / path.name, path, follow_symlinks=False)
            return True
    return False
