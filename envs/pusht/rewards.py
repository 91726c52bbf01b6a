"""Rewards for training; evaluation uses the stock one, clip(coverage / 0.95, 0, 1), and its success rule.

PushT's own reward pays an agent not to finish: success ends the episode and is worth 1, while hovering just
below the threshold is worth up to 1 in every further step. With the other rewards finishing pays:
`log_barrier` and `linear` are negative everywhere, so that every step costs, and `progress` pays only what
brings the T closer. A bonus for success comes on top (`envs.pusht.task.PushT`).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numba import njit

from envs.interfaces import RawObservation
from envs.pusht.observations import centre_of_gravity


class Transition(NamedTuple):
    """What a reward may look at: one environment step of n environments."""

    before: RawObservation
    after: RawObservation
    stock_reward: np.ndarray  # (n,)
    goal_keypoints: np.ndarray  # (8, 2) pixels


def keypoint_distance(raw: RawObservation, goal_keypoints: np.ndarray) -> np.ndarray:
    """Mean distance of the T's eight corners from their places, (n,) pixels."""
    return _mean_distance(raw["keypoints"], goal_keypoints)


@njit(cache=True)
def _distance(points: np.ndarray, others: np.ndarray) -> np.ndarray:
    """From points (n, 2) to others, (n,)."""
    distances = np.empty(len(points))
    for i in range(len(points)):
        dx, dy = points[i, 0] - others[i, 0], points[i, 1] - others[i, 1]
        distances[i] = math.sqrt(dx * dx + dy * dy)
    return distances


@njit(cache=True)
def _mean_distance(corners: np.ndarray, places: np.ndarray) -> np.ndarray:
    """From corners (n, k, 2) to their places (k, 2), (n,)."""
    distances = np.zeros(len(corners))
    for i in range(len(corners)):
        for k in range(len(places)):
            dx, dy = corners[i, k, 0] - places[k, 0], corners[i, k, 1] - places[k, 1]
            distances[i] += math.sqrt(dx * dx + dy * dy)
    return distances / len(places)


def agent_clearance(raw: RawObservation) -> np.ndarray:
    """How far the agent is from the T's middle beyond the 50 px at which it touches it, (n,) pixels."""
    return np.maximum(_distance(raw["agent_pos"], centre_of_gravity(raw["block_pose"])) - 50.0, 0.0)


def stock(transition: Transition) -> np.ndarray:
    """PushT's own, (n,): clip(coverage / 0.95, 0, 1)."""
    return transition.stock_reward


def linear(transition: Transition) -> np.ndarray:
    """Minus the corners' distance in 100 px, and a tenth of the agent's clearance, (n,)."""
    distance = keypoint_distance(transition.after, transition.goal_keypoints)
    return -np.minimum(distance, 200.0) / 100.0 - 0.1 * agent_clearance(transition.after) / 100.0


def log_barrier(transition: Transition) -> np.ndarray:
    """Linear far away, logarithmic near, (n,): the last 2 px are worth as much as those from 20 to 9."""
    distance = keypoint_distance(transition.after, transition.goal_keypoints)
    far = -0.5 * np.minimum(distance, 200.0) / 100.0
    near = -0.25 * np.log((distance + 2.0) / 100.0)
    return far + near - 0.25 * agent_clearance(transition.after) / 100.0 - 1.0


def progress(transition: Transition) -> np.ndarray:
    """Distance by which the corners came closer in 10 px, minus 0.1 per step, (n,)."""
    before = keypoint_distance(transition.before, transition.goal_keypoints)
    after = keypoint_distance(transition.after, transition.goal_keypoints)
    return (before - after) / 10.0 - 0.1


REWARDS: dict[str, Callable[[Transition], np.ndarray]] = {
    function.__name__: function for function in (stock, linear, log_barrier, progress)
}
