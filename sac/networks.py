"""The networks that SAC trains, and what they take in memory."""

import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import nn

from common.errors import show
from common.memory import check_fits
from sac.actor import Actor, PixelActor, make_actor
from sac.config import AgentConfig
from sac.critic import Critics, Leading
from sac.encoder import Decoder, EncoderConfig, Projection, layer_sides


class Networks(NamedTuple):
    """Without pictures, encoder and decoder are nothing."""

    policy: Actor | PixelActor  # encoder and actor: what plays
    actor: Actor
    encoder: nn.Module
    critics: Critics
    decoder: nn.Module
    noise_critics: Critics | None  # of the noise, where `critics` are of what a frozen policy makes of it


def make_networks(
    observation_size: int,
    action_size: int,
    config: AgentConfig,
    pixel_shape: tuple[int, int, int] | None,
    executed_size: int | None = None,
) -> Networks:
    """See `sac.agent.SAC`; `executed_size` is that of its `aliasing`, None without."""
    sizes = action_size, config.hidden_sizes
    if executed_size:
        seen, of_critics = Leading(observation_size), (config.num_critics, config.critic_layer_norm)
        actor = Actor(observation_size, *sizes, seen)
        critics = Critics(observation_size, executed_size, config.hidden_sizes, *of_critics, seen)
        noise_critics = Critics(observation_size, *sizes, *of_critics, seen)
        return Networks(actor, actor, nn.Identity(), critics, nn.Identity(), noise_critics)
    policy = make_actor(observation_size, *sizes, pixel_shape, config.encoder)
    encoder, decoder, projection = nn.Identity(), nn.Identity(), None
    if isinstance(policy, PixelActor):
        encoder = policy.encoder
        observation_size += config.encoder.features
        projection = Projection(encoder.num_features, config.encoder.features)
        if config.encoder.reconstruction:
            decoder = Decoder(encoder, config.encoder)
    critics = Critics(observation_size, *sizes, config.num_critics, config.critic_layer_norm, projection)
    return Networks(
        policy, policy.actor if isinstance(policy, PixelActor) else policy, encoder, critics, decoder, None
    )


def check_memory(
    observation_size: int,
    action_size: int,
    config: AgentConfig,
    pixel_shape: tuple[int, int, int] | None,
    device: torch.device | str,
    executed_size: int | None = None,
) -> None:
    """Refuse networks that do not fit, before they are made.

    Raises:
        UserError: they do not, or the pictures are too small for the encoder.
    """
    hidden, critics, batch, encoder = (
        config.hidden_sizes,
        config.num_critics,
        config.batch_size,
        config.encoder,
    )
    what = f"an agent of hidden_sizes {show(hidden)}, num_critics {config.num_critics} and batch_size {batch}"
    inputs, numbers = observation_size + max(action_size, executed_size or 0), 0
    if executed_size:
        critics *= 2  # those of the noise too
    if pixel_shape:
        inputs += encoder.features
        numbers = _encoder_numbers(encoder, batch, pixel_shape)
        what += (
            f", with an encoder of filters {show(encoder.filters)}, {encoder.views} views and "
            f"{encoder.target_views} target_views of pictures of {' x '.join(map(str, pixel_shape))},"
        )
    weights = sum(math.prod(sizes) for sizes in pairwise((inputs, *hidden)))
    activations = batch * (inputs + sum(hidden))
    # Five of each weight: itself, its average, its gradient and Adam's moments.
    check_fits(what, (critics + 1) * (5 * weights + activations) + numbers, device)


def _encoder_numbers(config: EncoderConfig, batch: int, pixel_shape: tuple[int, int, int]) -> int:
    """Of the encoder: its weights fivefold, the pictures of a batch, and what each layer makes of them."""
    sides = layer_sides(pixel_shape, config)
    channels = (pixel_shape[2], *config.filters)
    kernels = [
        kernel**2 * inner * outer
        for kernel, (inner, outer) in zip(config.kernels, pairwise(channels), strict=True)
    ]
    layers = [filters * math.prod(side) for filters, side in zip(config.filters, sides[1:], strict=True)]
    weights = sum(kernels) + 2 * layers[-1] * config.features  # of actor and critics
    pictures = (config.views + config.target_views) * math.prod(pixel_shape)
    seen = config.views * sum(layers)
    if config.reconstruction:  # the same layers again, and noise for each pixel
        weights += sum(kernels) + layers[-1] * config.features
        seen += config.views * (sum(layers) + math.prod(pixel_shape))
    return 5 * weights + batch * (pictures + seen)
