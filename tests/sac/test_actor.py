import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution

from sac.actor import LOG_STD_MAX, LOG_STD_MIN, Actor, PixelActor, untrained
from sac.encoder import Encoder, EncoderConfig, Projection
from sac.replay_buffer import Pixels


@pytest.fixture
def actor():
    torch.manual_seed(0)
    return Actor(observation_size=5, action_size=2, hidden_sizes=(16, 8)).double()


@pytest.fixture
def observations():
    return torch.randn(1000, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_network_is_relu_layers_and_a_clamped_head(actor, observations):
    x = observations.numpy()
    weights = {name: value.detach().numpy() for name, value in actor.network.named_parameters()}
    for layer in (0, 2):
        x = np.maximum(x @ weights[f"{layer}.weight"].T + weights[f"{layer}.bias"], 0.0)
    x = x @ weights["4.weight"].T + weights["4.bias"]
    mean, log_std = actor(observations)
    np.testing.assert_allclose(mean.detach(), x[:, :2], rtol=1e-12)
    np.testing.assert_allclose(log_std.detach(), np.clip(x[:, 2:], LOG_STD_MIN, LOG_STD_MAX), rtol=1e-12)
    np.testing.assert_allclose(actor.mode(observations).detach(), np.tanh(x[:, :2]), rtol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["usual", "saturated"])
def test_log_prob_is_that_of_torch_distributions(actor, observations, scale):
    noise = torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    actions, log_prob = actor.sample(scale * observations, noise)

    mean, log_std = actor(scale * observations)
    squash = TanhTransform(cache_size=1)  # remembers what it squashed: atanh cannot bring it back near 1
    expected_actions = squash(mean + log_std.exp() * noise)
    policy = Independent(TransformedDistribution(Normal(mean, log_std.exp()), squash), 1)
    torch.testing.assert_close(actions, expected_actions, rtol=0, atol=1e-15)
    torch.testing.assert_close(log_prob, policy.log_prob(expected_actions), rtol=1e-9, atol=1e-9)


def test_log_prob_is_a_density(actor):
    """Integrated over one dimension of the action, the joint density leaves the other's."""
    observation = torch.randn(1, 5, dtype=torch.float64)
    mean, log_std = actor(observation)
    grid = torch.linspace(-1, 1, 20_003, dtype=torch.float64)[1:-1]
    noise = torch.zeros(len(grid), 2, dtype=torch.float64)
    noise[:, 0] = (torch.atanh(grid) - mean[0, 0]) / log_std[0, 0].exp()
    actions, log_prob = actor.sample(observation.expand(len(grid), -1), noise)
    torch.testing.assert_close(actions[:, 0], grid)

    other = Normal(mean[0, 1], log_std[0, 1].exp()).log_prob(mean[0, 1]).exp() / (1 - mean[0, 1].tanh() ** 2)
    torch.testing.assert_close(torch.trapezoid(log_prob.exp(), grid), other, rtol=1e-4, atol=0)


def test_extreme_outputs_stay_finite_and_within_bounds(actor, observations):
    actor.float()
    noise = 5 * torch.ones(1000, 2)
    actions, log_prob = actor.sample(1e4 * observations.float(), noise)
    assert actions.abs().max() == 1.0 and log_prob.isfinite().all()
    (log_prob.sum() + actions.sum()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in actor.parameters())


def test_an_untrained_copy_does_the_same_whatever_it_sees(actor, observations):
    noise = torch.randn(1000, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    before = actor.mode(observations)
    blind = untrained(actor, std=0.5)
    assert not blind.mode(observations).any()
    torch.testing.assert_close(blind.sample(observations, noise)[0], torch.tanh(0.5 * noise))
    assert torch.equal(actor.mode(observations), before), "the actor itself is as it was"


def test_an_untrained_copy_of_an_actor_of_pictures():
    config = EncoderConfig(filters=(4,), kernels=(3,), strides=(2,), features=6)
    encoder = Encoder((8, 8, 3), config)
    actor = PixelActor(encoder, Actor(6, 2, [4], Projection(encoder.num_features, 6)))
    seen = Pixels(torch.rand(5, 3, 8, 8), torch.zeros(5, 0))
    blind = untrained(actor, std=0.5)
    assert actor.mode(seen).any() and not blind.mode(seen).any()
