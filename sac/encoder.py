"""Pictures to features for actor and critics: SAC+AE, DrQ and DrQ-v2, each part of them an option.

Yarats et al. 2019, "Improving Sample Efficiency in Model-Free Reinforcement Learning from Images" (SAC+AE,
arXiv:1910.01741); Kostrikov et al. 2020, "Image Augmentation Is All You Need" (DrQ, arXiv:2004.13649); Yarats
et al. 2021, "Mastering Visual Continuous Control" (DrQ-v2, arXiv:2107.09645).

One convolutional encoder is shared. Actor and critics each have a projection of their own behind it (Linear,
LayerNorm, tanh). The critics' loss trains the encoder, the actor's does not. Deliberate differences, each an
option:
* few filters, and a stride of 2 or more in every layer: on a CPU the papers' geometry costs 20 times as much.
* the target critics read the encoder itself, as in DrQ-v2; SAC+AE and DrQ have a target encoder.
* a decoder only where it is asked for.
"""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from common.bounds import Between, Count, NotNegative, Several, Share, ShareBelow1, Widths
from common.errors import UserError
from envs.interfaces import Observations, PixelObservations
from sac.replay_buffer import Observed, Pixels


@dataclass(frozen=True)
class EncoderConfig:
    """Pictures to features; for tasks with pictures only."""

    filters: Widths = (16, 32, 32)  # of each convolution
    kernels: Widths = (3, 3, 3)  # sides in pixels
    strides: Widths = (2, 2, 2)  # pixels from one output to the next
    features: Count = 50  # of each projection
    tau: Share = 0.0  # Polyak step of a target encoder; 0: target critics read the encoder itself (DrQ-v2)
    shift: Annotated[int, Between(0, 1_000)] = 2  # pixels by which a training picture moves at most (DrQ)
    brightness: ShareBelow1 = 0.0  # a training picture is brighter or darker by at most this share
    views: Several = 1  # of each observation, shifted and lit differently: DrQ's M
    target_views: Several = 1  # of each next observation, whose targets are averaged: DrQ's K
    reconstruction: NotNegative = 0.0  # weight of a decoder's loss (SAC+AE: 1); 0: no decoder
    latent_penalty: NotNegative = 1e-6  # weight of the features' squared size, with a decoder
    decoder_weight_decay: NotNegative = 1e-7  # weight of the decoder's squared weights
    critic_trains: bool = True  # the encoder; False: the decoder's loss alone does
    actor_trains: bool = False  # the encoder too; known to fail

    def validate(self) -> None:
        if not len(self.filters) == len(self.kernels) == len(self.strides) > 0:
            raise ValueError("filters, kernels and strides must be as many as each other")
        if not self.critic_trains and not self.reconstruction:
            raise ValueError("critic_trains must be true without a reconstruction")
        for name in ("latent_penalty", "decoder_weight_decay"):
            if not self.reconstruction and getattr(self, name) != getattr(EncoderConfig, name):
                raise ValueError(f"{name} must be left out without a reconstruction, which alone it is for")
        for name in ("views", "target_views"):
            if not (self.shift or self.brightness) and getattr(self, name) > 1:
                raise ValueError(f"{name} must be 1 without shift and brightness, in which views differ")


def layer_sides(pixel_shape: tuple[int, int, int], config: EncoderConfig) -> list[tuple[int, int]]:
    """Height and width of the pictures, then of each layer's output.

    Raises:
        UserError: the pictures are too small for the layers, or for the shift.
    """
    height, width, _ = pixel_shape
    pictures = f"pictures of {height} x {width} pixels"
    if config.shift >= min(height, width):
        raise UserError(f"encoder.shift must be less than the side of {pictures}, got {config.shift}")
    sides = [(height, width)]
    for kernel, stride in zip(config.kernels, config.strides, strict=True):
        height, width = (height - kernel) // stride + 1, (width - kernel) // stride + 1
        sides.append((height, width))
    if height < 1 or width < 1:
        raise UserError(
            f"encoder.filters, kernels and strides must be fewer or smaller: {len(config.filters)} layers "
            f"leave nothing of {pictures}"
        )
    return sides


class Encoder(nn.Module):
    """Convolutions with ReLUs between and after them.

    Args:
        pixel_shape: (H, W, S * C) of the stacked pictures.

    Raises:
        UserError: the pictures are too small for that many layers.
    """

    def __init__(self, pixel_shape: tuple[int, int, int], config: EncoderConfig) -> None:
        super().__init__()
        self.sides = layer_sides(pixel_shape, config)
        channels = pixel_shape[2]
        layers: list[nn.Module] = []
        for filters, kernel, stride in zip(config.filters, config.kernels, config.strides, strict=True):
            layers += [nn.Conv2d(channels, filters, kernel, stride), nn.ReLU()]
            channels = filters
        self.network = nn.Sequential(*layers)
        self.num_features = channels * math.prod(self.sides[-1])
        self.network.apply(delta_orthogonal)
        self.network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, observations: Observed) -> torch.Tensor:
        """-> (B, num_features + D): what the last layer says, and the numbers."""
        assert isinstance(observations, Pixels)
        features = self.network(observations.pixels - 0.5).flatten(1)
        return torch.cat([features, observations.numbers], dim=1)


class Projection(nn.Module):
    """The encoder's features (B, num_features + D) -> (B, size + D); the D numbers stay as they are."""

    def __init__(self, num_features: int, size: int) -> None:
        super().__init__()
        self.num_features = num_features
        self.linear = nn.Linear(num_features, size)
        self.norm = nn.LayerNorm(size)
        delta_orthogonal(self.linear)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        encoded, numbers = features[:, : self.num_features], features[:, self.num_features :]
        return torch.cat([torch.tanh(self.norm(self.linear(encoded))), numbers], dim=1)


class Decoder(nn.Module):
    """A projection -> the pictures that it was made from: the encoder's layers in reverse."""

    def __init__(self, encoder: Encoder, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.first = (config.filters[-1], *encoder.sides[-1])
        self.linear = nn.Linear(config.features, math.prod(self.first))
        layers: list[nn.Module] = []
        convolutions = [layer for layer in encoder.network if isinstance(layer, nn.Conv2d)]
        for layer, inner, outer in zip(
            reversed(convolutions), encoder.sides[:0:-1], encoder.sides[-2::-1], strict=True
        ):
            kernel, stride = layer.kernel_size[0], layer.stride[0]
            missing = [big - (small - 1) * stride - kernel for small, big in zip(inner, outer, strict=True)]
            layers += [
                nn.ReLU(),
                nn.ConvTranspose2d(
                    layer.out_channels,
                    layer.in_channels,
                    kernel,
                    stride,
                    output_padding=(missing[0], missing[1]),
                ),
            ]
        self.network = nn.Sequential(*layers)

    def forward(self, projected: torch.Tensor) -> torch.Tensor:
        """(B, features + D) -> (B, S * C, H, W), around 0."""
        return self.network(self.linear(projected[:, : self.config.features]).view(-1, *self.first))

    def loss(self, projected: torch.Tensor, observations: Pixels, noise: torch.Tensor) -> torch.Tensor:
        """SAC+AE's loss of encoder and decoder, ().

        Args:
            projected: (B, features + D), from which the pictures are decoded.
            observations: that they were; their pictures are reduced to 5 bits (Glow, arXiv:1807.03039).
            noise: like the pictures, uniform in [0, 1): what the reduction took away.
        """
        config = self.config
        target = (torch.floor(observations.pixels * 255 / 8) + noise) / 32 - 0.5
        size = projected[:, : config.features].square().sum(dim=1).mean()
        decay = torch.stack([weight.square().sum() for weight in self.parameters()]).sum()
        penalties = config.latent_penalty * 0.5 * size + config.decoder_weight_decay * 0.5 * decay
        return F.mse_loss(self(projected), target) + penalties


@torch.no_grad()
def delta_orthogonal(layer: nn.Module) -> None:
    """SAC+AE's weights: orthogonal; a convolution only at its centre (Xiao et al. 2018, arXiv:1806.05393)."""
    if isinstance(layer, nn.Conv2d):
        height, width = layer.kernel_size
        layer.weight.zero_()
        centre = torch.empty(layer.weight.shape[:2])
        layer.weight[:, :, height // 2, width // 2] = nn.init.orthogonal_(
            centre, nn.init.calculate_gain("relu")
        )
    elif isinstance(layer, nn.Linear):
        nn.init.orthogonal_(layer.weight)
    if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
        layer.bias.zero_()


def to_tensors(observations: Observations, device: torch.device | str) -> Observed:
    """Of an environment, for a network."""
    if not isinstance(observations, PixelObservations):
        return torch.from_numpy(observations).to(device)
    pixels = torch.from_numpy(observations.pixels).to(device).permute(0, 3, 1, 2)
    return Pixels(pixels.float().div_(255), torch.from_numpy(observations.numbers).to(device))


def gallery(pictures: torch.Tensor, reconstructions: torch.Tensor, colours: int) -> np.ndarray:
    """The newest of each stack (B, S * C, H, W) in a row, above its reconstruction: (2 H, B W, 3) uint8."""
    rows = torch.stack([pictures, reconstructions])[:, :, -colours:].permute(0, 3, 1, 4, 2)
    picture = rows.reshape(2 * rows.shape[1], -1, colours).expand(-1, -1, 3)
    return (255 * picture.clamp(0, 1)).round().byte().cpu().numpy()
