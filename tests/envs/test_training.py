"""The training environment: against scalar bookkeeping, and against itself after a restart."""

import cmath
import copy
import math

import numpy as np
import pytest

from common.config import from_dict
from common.errors import UserError
from envs.pusht.observations import features
from envs.pusht.rewards import REWARDS, Transition
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from envs.training import TaskTrainingEnv

SMALL = {"num_envs": 3, "curriculum": 0.0}
GAMMA = 0.9


def make(task: PushT, seed: int) -> TaskTrainingEnv:
    return task.training_env(seed, GAMMA)


def random_actions(rng: np.random.Generator, env: TaskTrainingEnv) -> np.ndarray:
    return rng.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32)


def play(env: TaskTrainingEnv, rng: np.random.Generator, steps: int) -> list[tuple]:
    """Random actions with resets where episodes end; everything that was seen."""
    seen = []
    for _ in range(steps):
        step = env.step(random_actions(rng, env))
        ended = step.terminated | step.truncated
        begun = env.reset(ended) if ended.any() else step.observations
        seen.append((*step, env.env_steps, begun))
    return seen


def assert_same(seen: list[tuple], expected: list[tuple]) -> None:
    for row, expected_row in zip(seen, expected, strict=True):
        for values, expected_values in zip(row, expected_row, strict=True):
            np.testing.assert_array_equal(values, expected_values)


@pytest.mark.slow
@pytest.mark.parametrize("reward", REWARDS)
@pytest.mark.parametrize(
    ("action_mode", "action_frame"),
    [("absolute", "board"), ("relative", "board"), ("relative", "block"), ("delta", "block")],
)
def test_step_equals_scalar_bookkeeping(reward, action_mode, action_frame):
    """Targets, their speed, repeats, bonus, scale: environment by environment beside the vector one."""
    config = PushT(
        **SMALL,
        reward=reward,
        action_mode=action_mode,
        action_bound=50.0,
        action_frame=action_frame,
        action_repeat=3,
        speed_limit=(400.0, 30.0),
        speed_ramp=(20, 80),
        success_bonus=9.0,
        reward_scale=0.5,
    )
    env, plain = make(config, seed=0), PushTVectorEnv(3)
    env.reset()
    raw, _ = plain.reset(seed=list(env.seeds))
    rng = np.random.default_rng(0)
    last_targets, returns, env_steps = list(raw["agent_pos"]), np.zeros(3), 0
    limited = {True: 0, False: 0}
    for step in range(20):
        if step == 10:
            for vector in (env.env, plain):
                for single in vector.envs:
                    single.success_threshold = -1.0  # now every step succeeds
        actions = random_actions(rng, env)
        played = env.step(actions)

        expected, targets = np.zeros(3), np.zeros((3, 2))
        for i in range(3):
            if action_mode == "absolute":
                targets[i] = 256 * (actions[i] + 1)
            else:
                move, angle = 50 * complex(*actions[i]), raw["block_pose"][i, 2]
                move *= cmath.exp(1j * angle) if action_frame == "block" else 1
                origin = raw["agent_pos"][i] if action_mode == "relative" else last_targets[i]
                targets[i] = origin + np.array([move.real, move.imag])
            speed = math.dist(targets[i], last_targets[i])
            limit = 400 - 370 * min(max((env_steps - 20) / 60, 0), 1)
            if speed > limit:
                targets[i] = last_targets[i] + (targets[i] - last_targets[i]) * limit / speed
            targets[i] = [min(max(xy, 0), 512) for xy in targets[i]]
            limited[speed > limit] += 1
            last_targets[i] = targets[i].copy()
        np.testing.assert_allclose(env.codec.last_target, targets, rtol=0, atol=1e-4)
        targets = env.codec.last_target.copy()  # to the last bit
        last_targets = list(targets.copy())
        durations = np.zeros(3, int)
        for repeat in range(3):
            active = plain.active.copy()
            env_steps += active.sum()
            durations += active
            after, stock_rewards, succeeded, _, _ = plain.step(targets)
            shaped = REWARDS[reward](Transition(raw, after, stock_rewards, plain.goal_keypoints))
            for i in np.flatnonzero(active):
                expected[i] += GAMMA**repeat * (shaped[i] + 9.0 * succeeded[i])
                returns[i] += stock_rewards[i]
            raw = after
        np.testing.assert_allclose(played.rewards, 0.5 * expected, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(played.returns, returns)
        np.testing.assert_array_equal(played.observations, features(raw, config.features))
        np.testing.assert_array_equal(played.durations, durations)
        assert env.env_steps == env_steps
        assert played.terminated.all() == (step >= 10) and not played.truncated.any()
        np.testing.assert_array_equal(played.is_success, played.terminated)
        if step >= 10:
            ended = np.ones(3, bool)
            env.reset(ended)
            raw, _ = plain.reset(seed=list(env.seeds))
            last_targets, returns = list(raw["agent_pos"]), np.zeros(3)
    assert min(limited.values()) > 5


def test_success_terminates_and_the_time_limit_truncates():
    config = PushT(num_envs=8, curriculum=1.0, curriculum_angle=0.05, curriculum_distance=2.5)
    env = make(config, seed=0)
    env.reset()
    outcomes = []
    for step in range(300):
        target = np.array([20.0, 20.0])  # away from the T
        actions = np.clip((target - env.env.observations()["agent_pos"]) / 80, -1, 1)
        before = env.env.active.copy()
        _, _, terminated, truncated, *_ = env.step(actions)
        assert not (terminated & truncated).any()
        assert not truncated.any() or step == 299
        np.testing.assert_array_equal(terminated, before & (env.env.infos()["is_success"]))
        outcomes.append((terminated, truncated))
    terminated, truncated = np.array(outcomes).sum(axis=0)
    np.testing.assert_array_equal(terminated + truncated, 1)
    assert terminated.any() and truncated.any()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"action_mode": "absolute", "action_frame": "board", "action_repeat": 2, "reward": "progress"},
        {"features": ("agent_pos", "target_lead"), "speed_limit": (40.0, 5.0), "speed_ramp": (0, 400)},
    ],
)
def test_a_restart_in_the_middle_of_episodes_changes_nothing(options):
    config = PushT(num_envs=4, **options)
    env = make(config, seed=0)
    env.reset()
    play(env, np.random.default_rng(0), steps=70)
    env.reset(np.array([False, True, False, True]))
    now = play(env, np.random.default_rng(1), steps=70)[-1][0]
    state, arrays = copy.deepcopy(env.state_dict())

    restarted = make(config, seed=99)
    restarted.reset()
    np.testing.assert_array_equal(restarted.load_state_dict(state, arrays), now)
    uninterrupted = play(env, np.random.default_rng(2), steps=300)
    assert_same(play(restarted, np.random.default_rng(2), steps=300), uninterrupted)
    assert any((row[2] | row[3]).any() for row in uninterrupted)  # episodes ended and began meanwhile


def test_a_restart_right_after_a_reset():
    env, restarted = (make(PushT(num_envs=4), seed=seed) for seed in (0, 1))
    begun = env.reset()
    np.testing.assert_array_equal(restarted.load_state_dict(*copy.deepcopy(env.state_dict())), begun)
    assert_same(
        play(restarted, np.random.default_rng(0), steps=20), play(env, np.random.default_rng(0), steps=20)
    )


def test_a_seed_decides_everything():
    first, second, other = (make(PushT(num_envs=4), seed=seed) for seed in (3, 3, 4))
    start = first.reset()
    np.testing.assert_array_equal(second.reset(), start)
    assert (other.reset() != start).any()
    runs = [play(env, np.random.default_rng(0), steps=320) for env in (first, second)]
    assert_same(*runs)


def test_every_episode_has_a_seed_of_its_own():
    env = make(PushT(num_envs=4, curriculum=0.5), seed=0)
    seeds, starts = [], []
    for _ in range(30):
        env.reset()
        seeds.extend(env.seeds)
        starts.extend(map(tuple, env.env.observations()["block_pose"]))
    assert len(set(seeds)) == len(set(starts)) == 120


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_share_of_starts_near_the_goal(share):
    config = PushT(num_envs=20, curriculum=share, curriculum_angle=0.01, curriculum_distance=1.0)
    env = make(config, seed=0)
    near = []
    for _ in range(15):
        env.reset()
        usual = ~np.isnan(env.step(np.zeros((20, 2))).returns)
        error = np.abs(env.env.observations()["block_pose"] - [256, 256, np.pi / 4])
        np.testing.assert_array_equal(~usual, (error < [10, 10, 0.1]).all(axis=1))
        near.extend(~usual)
    assert abs(np.mean(near) - share) <= 4 * np.sqrt(share * (1 - share) / len(near))


def test_starts_near_the_goal_spread_as_configured():
    task = PushT(num_envs=50, curriculum=1.0, curriculum_angle=0.4, curriculum_distance=30.0)
    env = make(task, seed=0)
    poses, agents = [], []
    for _ in range(10):
        env.reset()
        raw = env.env.observations()
        poses.append(raw["block_pose"])
        agents.append(np.linalg.norm(raw["agent_pos"] - raw["block_pose"][:, :2], axis=1))
    error = np.concatenate(poses) - [256, 256, np.pi / 4]
    spread = np.sqrt(np.mean(np.linspace(0.05, 1, 1000) ** 2))  # of a normal scaled by U(.05, 1)
    np.testing.assert_allclose(error.std(axis=0), spread * np.array([30, 30, 0.4]), rtol=0.15)
    assert np.min(agents) > 100


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"features": ("agent_pos", "colour")}, "colour"),
        ({"features": ()}, "features"),
        ({"num_envs": 0}, "num_envs"),
        ({"action_repeat": 0}, "action_repeat"),
        ({"action_bound": -1.0}, "action_bound"),
        ({"action_mode": "absolute"}, "action_frame"),
        ({"curriculum": 1.5}, "curriculum"),
        ({"speed_limit": (40.0, 0.0)}, "speed_limit"),
        ({"speed_ramp": (10, 10)}, "speed_ramp"),
    ],
)
def test_impossible_configurations_are_refused(options, complaint):
    with pytest.raises(UserError, match=complaint):
        from_dict(PushT, options)
