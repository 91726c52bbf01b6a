"""SAC's losses and its target as pure functions: equations 5 to 7 and 18 of Haarnoja et al. 2018,
"Soft Actor-Critic Algorithms and Applications" (arXiv:1812.05905).
"""

import torch


def td_target(
    rewards: torch.Tensor,
    discounts: torch.Tensor,
    next_q: torch.Tensor,
    next_log_prob: torch.Tensor,
    alpha: torch.Tensor,
) -> torch.Tensor:
    """What Q should have been, (B,).

    Args:
        rewards: (B,) discounted sum over the n steps of the transition.
        discounts: (B,) gamma^(environment steps); 0 where the episode terminated, not where it was truncated.
        next_q: (N, B) target critics at the next observation and an action drawn there; the smallest counts.
        next_log_prob: (B,) of that action. Only this last step's entropy enters an n-step target, as in SB3
            and FastSAC.
        alpha: () temperature.
    """
    return rewards + discounts * (next_q.amin(dim=0) - alpha * next_log_prob)


def critic_loss(q: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Each critic's mean squared error, (N,), from Q (N, B) and the target (B,), or one each (N, B)."""
    return (q - target).square().mean(dim=1)


def actor_loss(q: torch.Tensor, log_prob: torch.Tensor, alpha: torch.Tensor) -> torch.Tensor:
    """Expected alpha log pi - Q, (), from Q (N, B) of the actor's actions; the smallest critic counts."""
    return (alpha * log_prob - q.amin(dim=0)).mean()


def imitation_loss(modes: torch.Tensor, actions: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The weighted mean squared distance, (), between modes (B, A) and actions (B, A); weights (B,).

    Beside the actor's loss, as in TD3+BC (Fujimoto and Gu 2021, arXiv:2106.06860).
    """
    return (weights * (modes - actions).square().sum(dim=1)).mean()


def temperature_gradient(log_prob: torch.Tensor, target_entropy: float | torch.Tensor) -> torch.Tensor:
    """The gradient of `-log_alpha * (log_prob.mean() + target_entropy)` with respect to log_alpha, ().

    It raises the temperature while the policy's entropy is below its target.
    """
    return -(log_prob.mean() + target_entropy)
