"""What a set of episodes amounts to, in numbers: for evaluation, training and datasets."""

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np

from envs.interfaces import Episode, Metric, Task

SUCCESS_RATE = Metric("success_rate", "success rate", ".1f", "%", scale=100.0)
STEPS_TO_SUCCESS = Metric("mean_steps_to_success", "steps to success")
RETURN = Metric("avg_sum_reward", "return")


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The numbers that every task has, as plain values for JSON.

    Only the results of steps count, not the start state. (`lerobot-eval` 0.6.1 adds, by oversight, the first
    reward of the next episode to the sum of one that ended early; `avg_sum_reward` here does not.)

    Args:
        episodes: at least one.

    Returns:
        episodes: how many.
        avg_max_reward, avg_sum_reward: as in `lerobot-eval`: the mean over episodes of the largest and of the
            summed reward.
        And where the task has a success:
        success_rate, success_ci95: share of successes and its 95 % Wilson interval [low, high].
        pc_success: the share in percent, as in `lerobot-eval`.
        mean_steps_to_success: environment steps, over the successes alone; None without any.
    """
    numbers = {
        "episodes": len(episodes),
        "avg_max_reward": float(np.mean([episode.rewards.max() for episode in episodes])),
        "avg_sum_reward": float(np.mean([episode.rewards.sum() for episode in episodes])),
    }
    successes = [episode.success for episode in episodes if episode.success is not None]
    if successes:
        steps = [len(episode) for episode in episodes if episode.success]
        numbers |= {
            "success_rate": float(np.mean(successes)),
            "success_ci95": list(wilson_interval(sum(successes), len(successes))),
            "pc_success": 100.0 * float(np.mean(successes)),
            "mean_steps_to_success": float(np.mean(steps)) if steps else None,
        }
    return numbers


def scalars(task: Task, summary: dict[str, Any]) -> dict[str, float]:
    """The task's metrics under TensorBoard's names."""
    return {
        f"Eval/{metric.name.replace(' ', '_')}": summary[metric.key]
        for metric in task.metrics
        if summary[metric.key] is not None
    }


def has_success(task: Task) -> bool:
    """Whether its episodes succeed or fail."""
    return SUCCESS_RATE.key in [metric.key for metric in task.metrics]


def table(task: Task, summary: dict[str, Any]) -> dict[str, str]:
    """The task's metrics as people read them: name -> value with its unit and interval."""
    rows = {metric.name: _text(metric, summary) for metric in task.metrics}
    if SUCCESS_RATE.name in rows:
        low, high = (100.0 * bound for bound in summary["success_ci95"])
        rows[SUCCESS_RATE.name] += f" (95 % interval {low:.1f} to {high:.1f})"
    return rows


def line(task: Task, summary: dict[str, Any]) -> str:
    """The brief ones of the task's metrics in a line."""
    return ", ".join(f"{metric.name} {_text(metric, summary)}" for metric in task.metrics if metric.brief)


def wilson_interval(successes: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """The interval of probabilities that `successes` out of `trials` do not rule out (Wilson 1927).

    Unlike p ± z sqrt(p (1 - p) / n) it is right near 0 and 1, where our policies are.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p = successes / trials
    center = p + z**2 / (2 * trials)
    margin = z * sqrt(p * (1 - p) / trials + (z / (2 * trials)) ** 2)
    scale = 1 + z**2 / trials
    low = (center - margin) / scale if successes else 0.0
    return low, min(1.0, (center + margin) / scale)


def _text(metric: Metric, summary: dict[str, Any]) -> str:
    value = summary[metric.key]
    return "-" if value is None else f"{metric.scale * value:{metric.form}} {metric.unit}".strip()
