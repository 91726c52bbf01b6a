import math

import numpy as np
import pytest
import torch

from sac.losses import actor_loss, critic_loss, td_target, temperature_gradient

Q = np.array([[1.0, -2.0, 0.5], [0.5, 3.0, 0.25]])  # (2 critics, 3 transitions)
LOG_PROB = np.array([-1.0, 0.5, 2.0])
ALPHA = 0.2


def tensors(*arrays: np.ndarray | float) -> list[torch.Tensor]:
    return [torch.tensor(array, dtype=torch.float64) for array in arrays]


def test_critic_target():
    rewards, discounts = np.array([1.0, 2.0, 3.0]), np.array([0.9, 0.729, 0.0])
    expected = [
        1.0 + 0.9 * (0.5 - 0.2 * -1.0),
        2.0 + 0.729 * (-2.0 - 0.2 * 0.5),
        3.0,  # terminated: nothing comes after it
    ]
    target = td_target(*tensors(rewards, discounts, Q, LOG_PROB, ALPHA))
    np.testing.assert_allclose(target, expected, rtol=1e-12)


def test_critic_loss_is_the_mean_squared_error_of_each():
    target = np.array([0.0, 1.0, 2.0])
    expected = [np.mean((Q[0] - target) ** 2), np.mean((Q[1] - target) ** 2)]
    np.testing.assert_allclose(critic_loss(*tensors(Q, target)), expected, rtol=1e-12)


def test_actor_loss_takes_the_smallest_critic():
    expected = np.mean([ALPHA * p - min(a, b) for p, a, b in zip(LOG_PROB, *Q, strict=True)])
    np.testing.assert_allclose(actor_loss(*tensors(Q, LOG_PROB, ALPHA)), expected, rtol=1e-12)


@pytest.mark.parametrize("target_entropy", [-2.0, 1.0])
def test_temperature_gradient_is_that_of_the_loss(target_entropy):
    log_alpha, log_prob = tensors(math.log(ALPHA), LOG_PROB)
    loss = (-log_alpha.requires_grad_() * (log_prob + target_entropy)).mean()
    loss.backward()
    torch.testing.assert_close(temperature_gradient(log_prob, target_entropy), log_alpha.grad)
    entropy = -LOG_PROB.mean()
    np.testing.assert_allclose(log_alpha.grad, entropy - target_entropy)  # descent: up while it is too low
