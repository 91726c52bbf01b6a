import pytest
import torch
from torch import nn

from sac.critic import Critics, StackedLayerNorm, StackedLinear


def separate(critics: Critics, index: int) -> nn.Sequential:
    """One of the stacked critics as a network of its own."""
    layers = []
    for layer in critics.network:
        if isinstance(layer, StackedLinear):
            own = nn.Linear(*layer.weight.shape[1:])
            own.weight.data, own.bias.data = layer.weight[index].T.clone(), layer.bias[index, 0].clone()
        elif isinstance(layer, StackedLayerNorm):
            own = nn.LayerNorm(layer.weight.shape[-1])
            own.weight.data, own.bias.data = layer.weight[index, 0].clone(), layer.bias[index, 0].clone()
        else:
            own = nn.ReLU()
        layers.append(own)
    return nn.Sequential(*layers)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("num_critics", [1, 2, 5])
def test_stacked_critics_are_separate_networks(num_critics, layer_norm):
    torch.manual_seed(0)
    critics = Critics(7, 2, (32, 16), num_critics, layer_norm)
    for parameter in critics.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)  # else all layer norms are alike
    observations, actions = torch.randn(64, 7), torch.randn(64, 2)

    q = critics(observations, actions)
    q.square().mean(dim=1).sum().backward()
    assert q.shape == (num_critics, 64)
    for i in range(num_critics):
        own = separate(critics, i)
        own_q = own(torch.cat([observations, actions], dim=1))[:, 0]
        own_q.square().mean().backward()
        torch.testing.assert_close(q[i], own_q)
        stacked_grads = [parameter.grad[i].squeeze(0) for parameter in critics.parameters()]
        for stacked, alone in zip(stacked_grads, own.parameters(), strict=True):
            torch.testing.assert_close(stacked.T if stacked.ndim == 2 else stacked, alone.grad)


def test_initial_weights_are_spread_like_those_of_linear():
    torch.manual_seed(0)
    stacked, alone = StackedLinear(3, 100, 400), nn.Linear(100, 400)
    for ours, theirs in ((stacked.weight, alone.weight), (stacked.bias, alone.bias)):
        for each in ours:
            torch.testing.assert_close(each.std(), theirs.std(), rtol=0.1, atol=0)
            torch.testing.assert_close(each.abs().max(), theirs.abs().max(), rtol=0.02, atol=0)
    assert not torch.equal(stacked.weight[0], stacked.weight[1])
