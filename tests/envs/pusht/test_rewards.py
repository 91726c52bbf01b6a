"""The training rewards, one environment and one formula at a time."""

import math

import numpy as np
import pytest

from envs.pusht.rewards import (
    REWARDS,
    Transition,
    agent_clearance,
    keypoint_distance,
    linear,
    log_barrier,
    progress,
)
from envs.pusht.vector import PushTVectorEnv

ON_GOAL = [256.0, 256.0, np.pi / 4]


@pytest.fixture(scope="module")
def env() -> PushTVectorEnv:
    return PushTVectorEnv(64)


def random_states(n: int) -> np.ndarray:
    """Anywhere, near and on the goal, the agent anywhere."""
    rng = np.random.default_rng(0)
    poses = np.array(ON_GOAL) + rng.normal(0, [60, 60, 1], (n, 3)) * rng.uniform(0, 1, (n, 1))
    poses[0] = ON_GOAL
    return np.column_stack([rng.uniform(50, 450, (n, 2)), poses])


def transition(env: PushTVectorEnv) -> Transition:
    """One step of every environment from random states."""
    n = env.num_envs
    before, _ = env.reset(seed=[0] * n, options={"states": random_states(n)})
    after, stock_reward, *_ = env.step(before["block_pose"][:, :2])
    return Transition(before, after, stock_reward, env.goal_keypoints)


def scalar_distance(raw: dict, i: int) -> float:
    """Corner by corner: the bar's and the stem's, turned and moved."""
    x, y, angle = raw["block_pose"][i]
    corners = [(-60, 0), (60, 0), (60, 30), (-60, 30), (-15, 30), (15, 30), (15, 120), (-15, 120)]
    total = 0.0
    for u, v in corners:
        here = complex(x, y) + complex(u, v) * complex(math.cos(angle), math.sin(angle))
        there = complex(256, 256) + complex(u, v) * complex(math.cos(math.pi / 4), math.sin(math.pi / 4))
        total += abs(here - there)
    return total / 8


def scalar_clearance(env: PushTVectorEnv, i: int) -> float:
    single = env.envs[i]
    middle = single.block.local_to_world(single.block.center_of_gravity)
    return max((single.agent.position - middle).length - 50.0, 0.0)


def test_distance_and_clearance(env):
    after = transition(env).after
    distances, clearances = keypoint_distance(after, env.goal_keypoints), agent_clearance(after)
    for i in range(env.num_envs):
        assert distances[i] == pytest.approx(scalar_distance(after, i), abs=1e-9)
        assert clearances[i] == pytest.approx(scalar_clearance(env, i), abs=1e-9)
    assert clearances.min() == 0.0 and clearances.max() > 0.0


def test_every_reward_equals_its_formula(env):
    step = transition(env)
    rewards = {name: reward(step) for name, reward in REWARDS.items()}
    for i in range(env.num_envs):
        d, clearance = scalar_distance(step.after, i), scalar_clearance(env, i)
        expected = {
            "stock": min(env.envs[i]._get_coverage() / 0.95, 1.0),
            "linear": -min(d, 200) / 100 - 0.1 * clearance / 100,
            "log_barrier": -0.5 * min(d, 200) / 100
            - 0.25 * math.log((d + 2) / 100)
            - 0.25 * clearance / 100
            - 1,
            "progress": (scalar_distance(step.before, i) - d) / 10 - 0.1,
        }
        assert {name: values[i] for name, values in rewards.items()} == pytest.approx(expected, abs=1e-9)


def test_every_step_costs_even_next_to_the_goal():
    """Else it would pay to stay there rather than to finish."""
    goal = np.zeros((8, 2))
    for distance in (0.0, 0.1, 1.0, 2.0, 10.0, 100.0, 400.0):
        raw = {
            "keypoints": np.full((1, 8, 2), distance / math.sqrt(2)),
            "block_pose": np.zeros((1, 3)),
            "agent_pos": np.array([[0.0, 45.0]]),
        }
        still = Transition(raw, raw, np.ones(1), goal)
        assert progress(still)[0] < 0.0
        assert log_barrier(still)[0] < 0.0
        assert linear(still)[0] <= 0.0


def test_the_barrier_values_the_last_pixels(env):
    """From 4 px to 2 px it pays at least as much as from 40 px to 30 px, unlike the linear reward."""

    def value(reward, x_error: float) -> float:
        raw, _ = env.reset(
            seed=[0] * 64, options={"states": np.tile([400, 400, 256 + x_error, *ON_GOAL[1:]], (64, 1))}
        )
        return reward(Transition(raw, raw, np.zeros(64), env.goal_keypoints))[0]

    for reward, favours_the_end in ((log_barrier, True), (linear, False)):
        last, middle = value(reward, 2) - value(reward, 4), value(reward, 30) - value(reward, 40)
        assert (last > middle) == favours_the_end
