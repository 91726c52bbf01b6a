"""A policy for PushT that is written by hand."""

from collections.abc import Sequence

import numpy as np

from envs.interfaces import RawObservation
from envs.pusht.observations import BOARD_PX, GOAL_POSE, centre_of_gravity, wrap_angle


class ScriptedPolicy:
    """Walks round the T to the side away from the goal and pushes, off centre where the T should also turn.

    Crude on purpose: a floor for every learned policy, and coverage above zero for tests.
    """

    n_action_steps = 1
    image_size = 0
    history = 1

    def seed_slots(self, seeds: Sequence[int]) -> None:
        pass

    def reset(self, slots: np.ndarray) -> None:
        pass

    def act(self, observations: RawObservation) -> np.ndarray:
        agent, pose = observations["agent_pos"], observations["block_pose"]
        middle = centre_of_gravity(pose)
        to_goal = centre_of_gravity(GOAL_POSE[None]) - middle
        distance = np.linalg.norm(to_goal, axis=1, keepdims=True)
        forward = to_goal / np.maximum(distance, 1e-6)
        left = np.stack([-forward[:, 1], forward[:, 0]], axis=1)

        turn = wrap_angle(GOAL_POSE[2] - pose[:, 2])
        # Pushed left of its middle, the T turns backwards.
        offset = np.clip(-60.0 * turn, -40.0, 40.0)[:, None]
        ahead = np.sum((agent - middle) * forward, axis=1, keepdims=True)
        aside = np.sum((agent - middle) * left, axis=1, keepdims=True)

        push = agent + np.clip(distance, 10.0, 60.0) * forward + (offset - aside) * left
        line_up = middle - 100.0 * forward + offset * left
        go_round = agent - 60.0 * forward + (110.0 * np.where(aside < 0, -1.0, 1.0) - aside) * left
        lined_up = (ahead < -15.0) & (np.abs(aside - offset) < 20.0)
        targets = np.where(lined_up, push, np.where(ahead < -80.0, line_up, go_round))
        return np.clip(targets, 0.0, BOARD_PX)
