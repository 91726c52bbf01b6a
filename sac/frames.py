"""Stacks of pictures as networks see them: shifted, mirrored and scaled from uint8 in one pass.

Twice, with equal results: for the CPU compiled by Numba, for a GPU as one gather by index arithmetic.
The random shift is DrQ's (Kostrikov et al., 2020, arXiv:2004.13649): the edge is replicated, then cropped.
"""

import numpy as np
import torch
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def gather(frames, places, shifts, mirrored, out):  # pyright: ignore
    """Write rows of stacks into `out`.

    Args:
        frames: (N, H, W, C) uint8.
        places: (R, S) int, the pictures of each stack.
        shifts: (R, 2) int pixels down and to the right that the window moves, one for the whole stack.
        mirrored: (R,) bool, flipped left to right after the shift.
        out: (R, H, W, S * C) float32 in [0, 1].
    """
    num_rows, stack = places.shape
    height, width, colours = frames.shape[1:]
    columns = np.empty(width, np.int64)  # where each pixel of a row comes from
    scaled = np.empty(width * colours, np.float32)
    for row in range(num_rows):
        for x in range(width):
            wanted = (width - 1 - x if mirrored[row] else x) + shifts[row, 1]
            columns[x] = min(max(wanted, 0), width - 1) * colours
        for y in range(height):
            line = out[row, y].reshape(width * stack * colours)
            source_y = min(max(y + shifts[row, 0], 0), height - 1)
            for s in range(stack):
                source = frames[places[row, s], source_y].reshape(width * colours)
                for i in range(width * colours):
                    scaled[i] = np.float32(source[i]) / np.float32(255)
                if colours == 1:  # the usual cases apart: the compiler unrolls them
                    for x in range(width):
                        line[x * stack + s] = scaled[columns[x]]
                elif colours == 3:
                    for x in range(width):
                        to, at = (x * stack + s) * 3, columns[x]
                        line[to], line[to + 1], line[to + 2] = scaled[at], scaled[at + 1], scaled[at + 2]
                else:
                    for x in range(width):
                        for c in range(colours):
                            line[(x * stack + s) * colours + c] = scaled[columns[x] + c]


def gather_on(
    frames: torch.Tensor, places: np.ndarray, shifts: np.ndarray, mirrored: np.ndarray
) -> torch.Tensor:
    """What `gather` writes, (R, H, W, S * C), made on the device of the frames."""
    num_rows, (height, width) = len(places), frames.shape[1:3]
    index = np.concatenate([places, shifts, mirrored[:, None]], axis=1)  # one transfer
    index = torch.from_numpy(index.astype(np.int64)).to(frames.device, non_blocking=True)
    down, right, flipped = index[:, -3:].unsqueeze(-1).unbind(1)  # (R, 1) each
    x = torch.arange(width, device=frames.device)
    x = (torch.where(flipped > 0, width - 1 - x, x) + right).clamp(0, width - 1)  # (R, W)
    y = (torch.arange(height, device=frames.device) + down).clamp(0, height - 1)  # (R, H)
    # (R, H, W, S, C) uint8
    pictures = frames[index[:, None, None, :-3], y[:, :, None, None], x[:, None, :, None]]
    return pictures.reshape(num_rows, height, width, -1).float() / 255
