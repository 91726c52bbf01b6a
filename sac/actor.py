"""The squashed Gaussian actor of SAC (Haarnoja et al. 2018, arXiv:1812.05905, appendix C)."""

import copy
import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional as F

from sac.encoder import Encoder, EncoderConfig, Projection
from sac.replay_buffer import Observed

LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0  # keeps the density finite; the bounds are pytorch_sac's and CleanRL's


def mlp(sizes: Sequence[int]) -> nn.Sequential:
    """Linear layers of the given sizes with ReLUs between them."""
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


class Actor(nn.Module):
    """Observation -> distribution over actions in (-1, 1).

    Args:
        observation_size: numbers that the network sees.
        projection: what makes them out of an encoder's features, where there are pictures.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        hidden_sizes: Sequence[int],
        projection: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.projection = projection or nn.Identity()
        self.network = mlp([observation_size, *hidden_sizes, 2 * action_size])

    def forward(self, observations: Observed) -> tuple[torch.Tensor, torch.Tensor]:
        """Observations (B, D) -> mean and log standard deviation (B, A) of the Gaussian before the tanh."""
        mean, log_std = self.network(self.projection(observations)).chunk(2, dim=-1)
        return mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX)

    def mode(self, observations: Observed) -> torch.Tensor:
        """The deterministic action (B, A): the squashed mean."""
        return torch.tanh(self(observations)[0])

    def sample(self, observations: Observed, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Reparametrised actions and their log-probabilities.

        Args:
            observations: (B, D).
            noise: (B, A) standard normal.

        Returns:
            actions (B, A) in (-1, 1), log_prob (B,).
        """
        mean, log_std = self(observations)
        pre_tanh = mean + log_std.exp() * noise
        gaussian = -0.5 * noise**2 - log_std - 0.5 * math.log(2 * math.pi)
        # log(1 - tanh(x)^2), in the form that does not underflow
        log_det = 2.0 * (math.log(2.0) - pre_tanh - F.softplus(-2.0 * pre_tanh))
        return torch.tanh(pre_tanh), (gaussian - log_det).sum(dim=-1)


class PixelActor(nn.Module):
    """Encoder and actor: what plays from pictures."""

    def __init__(self, encoder: Encoder, actor: Actor) -> None:
        super().__init__()
        self.encoder = encoder
        self.actor = actor

    def forward(self, observations: Observed) -> tuple[torch.Tensor, torch.Tensor]:
        return self.actor(self.encoder(observations))

    def mode(self, observations: Observed) -> torch.Tensor:
        return self.actor.mode(self.encoder(observations))

    def sample(self, observations: Observed, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.actor.sample(self.encoder(observations), noise)


def untrained[A: Actor | PixelActor](actor: A, std: float) -> A:
    """A copy that does the same whatever it sees: the mode is 0, a sample is the tanh of N(0, std^2).

    Args:
        actor: is not changed.
        std: within the bounds of the actor's own, see `LOG_STD_MIN`.
    """
    blind = copy.deepcopy(actor)
    last = (blind.actor if isinstance(blind, PixelActor) else blind).network[-1]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    mean, log_std = last.bias.detach().chunk(2)
    mean.zero_()
    log_std.fill_(math.log(std))
    return blind


def make_actor(
    observation_size: int,
    action_size: int,
    hidden_sizes: Sequence[int],
    pixel_shape: tuple[int, int, int] | None = None,
    encoder_config: EncoderConfig | None = None,
) -> Actor | PixelActor:
    """What plays: an actor, behind an encoder where there are pictures of (H, W, S * C).

    Raises:
        UserError: the pictures are too small for the encoder.
    """
    if not pixel_shape or not encoder_config:
        return Actor(observation_size, action_size, hidden_sizes)
    encoder = Encoder(pixel_shape, encoder_config)
    seen = encoder_config.features + observation_size
    projection = Projection(encoder.num_features, encoder_config.features)
    return PixelActor(encoder, Actor(seen, action_size, hidden_sizes, projection))
