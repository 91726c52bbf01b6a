"""What a set of episodes amounts to, in numbers: for evaluation, for training, for datasets."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from envs.rollout import Episode


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The numbers we quote, as plain values that JSON can hold.

    Only what a step led to counts: the start state is no one's merit. (`lerobot-eval` 0.6.1 adds, by
    oversight, the first reward of the next episode to the sum of one that ended early; `avg_sum_reward` here
    does not.)

    Args:
        episodes: at least one.

    Returns:
        episodes: how many.
        success_rate, success_ci95: share of successes and its 95 % Wilson interval [low, high].
        pc_success, avg_max_reward, avg_sum_reward: what they are in `lerobot-eval`: successes in percent, the
            mean over episodes of the largest and of the summed stock reward.
        mean_max_coverage: mean over episodes of the largest coverage.
        mean_steps_to_success: environment steps, over the successes alone; None without any.
        action_step_mean, action_step_p99: pixels from one target to the next, over all steps of all episodes;
            None if no episode has two.
    """
    successes = [episode.success for episode in episodes]
    steps_to_success = [len(episode) for episode in episodes if episode.success]
    action_steps = np.concatenate([_action_steps(episode) for episode in episodes])
    return {
        "episodes": len(episodes),
        "success_rate": float(np.mean(successes)),
        "success_ci95": list(wilson_interval(sum(successes), len(successes))),
        "pc_success": 100.0 * float(np.mean(successes)),
        "avg_max_reward": float(np.mean([episode.rewards.max() for episode in episodes])),
        "avg_sum_reward": float(np.mean([episode.rewards.sum() for episode in episodes])),
        "mean_max_coverage": float(np.mean([episode.coverage[1:].max() for episode in episodes])),
        "mean_steps_to_success": float(np.mean(steps_to_success)) if steps_to_success else None,
        "action_step_mean": float(action_steps.mean()) if len(action_steps) else None,
        "action_step_p99": float(np.percentile(action_steps, 99)) if len(action_steps) else None,
    }


def scalars(summary: dict[str, Any]) -> dict[str, float]:
    """What a training logs of it, under names as TensorBoard groups them."""
    named = {
        "Eval/success_rate": summary["success_rate"],
        "Eval/steps_to_success": summary["mean_steps_to_success"],
        "Eval/max_coverage": summary["mean_max_coverage"],
        "Eval/return": summary["avg_sum_reward"],
        "Eval/action_step_mean": summary["action_step_mean"],
        "Eval/action_step_p99": summary["action_step_p99"],
    }
    return {name: value for name, value in named.items() if value is not None}


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of probabilities that `successes` out of `trials` do not rule out (Wilson 1927).

    Unlike p ± z sqrt(p (1 - p) / n) it is right near 0 and 1, where our policies are.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / trials
    center = p + z**2 / (2 * trials)
    margin = z * sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z**2 / trials
    return max(0.0, (center - margin) / scale), min(1.0, (center + margin) / scale)


def _action_steps(episode: Episode) -> np.ndarray:
    return np.linalg.norm(np.diff(episode.actions, axis=0), axis=1)
