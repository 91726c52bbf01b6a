"""A small picture encoder: a few convolutions and a spatial softmax, which says where things are, not what.

Finn et al. 2016, "Deep Spatial Autoencoders for Visuomotor Learning" (arXiv 1509.06113). For a CPU: a
ResNet-18's gradient takes 40 times as long. At first the softmax is nearly uniform: policies with sharper
first maps learnt faster, but succeeded less when SAC steered them (docs/steering.md).
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn

SPREAD = 2.0  # of places in a picture, to either side of its middle
LARGEST_SIDE = 4_096  # pixels, of what a stranger's configuration may say


def check_picture(name: str, shape: Sequence[int], filters: Sequence[int], patch_size: int) -> None:
    """Raise ValueError where a `PictureNet` cannot look at pictures of this shape."""
    if len(shape) != 3 or shape[0] != 3 or not 1 <= min(shape[1:]) <= max(shape[1:]) <= LARGEST_SIDE:
        raise ValueError(f"inputs must be pictures (3, height, width), and {name} is {tuple(shape)}")
    pixels = f"{name} has {shape[2]} x {shape[1]} pixels"
    if shape[1] % patch_size or shape[2] % patch_size:
        raise ValueError(f"patch_size must divide the sides of pictures: {pixels}, got {patch_size}")
    height, width = map_sides(shape, filters, patch_size)[-1]
    if min(height, width) < 2:
        raise ValueError(
            f"patch_size must be less: {pixels}, which leaves a map of {width} x {height}, "
            f"and the spatial softmax needs 2 x 2; got {patch_size}"
        )


def map_sides(shape: Sequence[int], filters: Sequence[int], patch_size: int) -> list[tuple[int, int]]:
    """Height and width of what each convolution of a `PictureNet` makes of a picture (3, height, width)."""
    _, height, width = shape
    sides = [(height // patch_size, width // patch_size)]
    for _ in filters[1:]:
        step = 2 if len(sides) == 1 else 1
        sides.append((-(-sides[-1][0] // step), -(-sides[-1][1] // step)))
    return sides


class PictureNet(nn.Module):
    """Convolutions and a spatial softmax: pictures -> (x, y) of each of the last filters.

    Args:
        shape: of a picture, (3, height, width).
        filters: of each convolution: the first sees patches, each other one 3 x 3 places of the one before,
            and the second halves the sides.
        patch_size: side of a patch in pixels.
    """

    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(self, shape: Sequence[int], filters: Sequence[int], patch_size: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(shape[0], filters[0], patch_size, stride=patch_size)]
        for depth, (inner, outer) in enumerate(pairwise(filters)):
            layers += [nn.ReLU(), nn.Conv2d(inner, outer, 3, stride=1 if depth else 2, padding=1)]
        self.layers = nn.Sequential(*layers)
        self.shape = tuple(shape)
        height, width = map_sides(shape, filters, patch_size)[-1]
        self.register_buffer("rows", torch.linspace(-SPREAD, SPREAD, height), persistent=False)
        self.register_buffer("columns", torch.linspace(-SPREAD, SPREAD, width), persistent=False)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 3, height, width) in [0, 1] -> x and y of F filters' places (B, 2 F)."""
        if pictures.shape[1:] != self.shape:
            raise ValueError(f"pictures must be of shape {self.shape}, got {tuple(pictures.shape[1:])}")
        maps = self.layers((pictures - 0.5).contiguous(memory_format=torch.channels_last)).float()
        shares = maps.flatten(2).softmax(dim=2).reshape(maps.shape)
        x = (shares.sum(dim=2) * self.columns).sum(dim=2)
        y = (shares.sum(dim=3) * self.rows).sum(dim=2)
        return torch.cat([x, y], dim=1)
