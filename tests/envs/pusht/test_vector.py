"""The vector environment against as many single stock environments."""

import gym_pusht  # noqa: F401  registers gym_pusht/PushT-v0
import gymnasium
import numpy as np
import pytest

from envs.pusht.simulator import PushTEnv
from envs.pusht.vector import PushTVectorEnv, StockPushTVectorEnv

GOAL_X, GOAL_Y, GOAL_ANGLE = 256.0, 256.0, np.pi / 4
DOWN_THE_STEM = np.array([-np.sin(GOAL_ANGLE), np.cos(GOAL_ANGLE)])  # of a T that is turned as it should be


def behind_the_bar(distance: float) -> tuple[np.ndarray, np.ndarray]:
    """A start state with the T so many pixels short of its place, and the target that pushes it there."""
    x, y = (GOAL_X, GOAL_Y) - distance * DOWN_THE_STEM
    agent_x, agent_y = (x, y) - 20 * DOWN_THE_STEM
    return np.array([agent_x, agent_y, x, y, GOAL_ANGLE]), (GOAL_X, GOAL_Y) - 14 * DOWN_THE_STEM


def assert_same_raw(ours: dict, stocks: dict) -> None:
    assert list(ours) == list(stocks)
    for name in ours:
        np.testing.assert_array_equal(ours[name], stocks[name], err_msg=name)


def raw_observation(stock) -> dict[str, np.ndarray]:
    """The raw observation of one stock environment, by pymunk's own properties."""
    stock = stock.unwrapped
    return {
        "agent_pos": np.array(stock.agent.position),
        "agent_vel": np.array(stock.agent.velocity),
        "block_pose": np.array([*stock.block.position, stock.block.angle]),
        "keypoints": stock.get_keypoints(stock._block_shapes),
    }


def row(raw: dict, i: int) -> dict:
    return {name: values[i] for name, values in raw.items()}


@pytest.mark.slow
def test_steps_equal_single_stock_envs():
    """One succeeds at once, one later, two run into the time limit: to the end and beyond."""
    n = 4
    env = PushTVectorEnv(n)
    stocks = [gymnasium.make("gym_pusht/PushT-v0") for _ in range(n)]
    states = np.full((n, 5), np.nan)
    states[0] = [30, 30, GOAL_X + 1, GOAL_Y, GOAL_ANGLE]
    states[1], target = behind_the_bar(distance=40)
    seeds = [3, 4, 5, 6]
    raw, infos = env.reset(seed=seeds, options={"states": states})
    for i, stock in enumerate(stocks):
        stock.reset(seed=seeds[i])
        if not np.isnan(states[i, 0]):
            PushTEnv.set_state(stock.unwrapped, states[i])
        assert_same_raw(row(raw, i), raw_observation(stock))
        assert abs(infos["progress"][i] - stock.unwrapped._get_coverage()) < 1e-12

    rng = np.random.default_rng(0)
    lengths = np.zeros(n, int)
    playing = np.ones(n, bool)
    for _ in range(303):
        actions = raw["block_pose"][:, :2] + rng.normal(0, 60, (n, 2))
        actions[1] = target
        raw, rewards, terminated, truncated, infos = env.step(actions)
        for i in np.flatnonzero(playing):
            _, reward, *ended, info = stocks[i].step(actions[i])
            assert abs(rewards[i] - reward) < 1e-12
            assert abs(infos["progress"][i] - info["coverage"]) < 1e-12
            assert infos["is_success"][i] == info["is_success"]
            assert [terminated[i], truncated[i]] == ended
            playing[i] = not any(ended)
            lengths[i] += 1
        for i, stock in enumerate(stocks):
            assert_same_raw(row(raw, i), raw_observation(stock))
        np.testing.assert_array_equal(env.active, playing)
        np.testing.assert_array_equal(env.steps, lengths)
    assert lengths[0] == 1 and 1 < lengths[1] < 50 and list(lengths[2:]) == [300, 300]


def test_ended_environments_stay_put():
    env = PushTVectorEnv(2, max_episode_steps=3)
    env.reset(seed=[0, 1])
    target = np.full((2, 2), 250.0)
    for _ in range(3):
        raw, rewards, terminated, truncated, infos = env.step(target)
    assert truncated.all() and not terminated.any() and not env.active.any()
    for _ in range(2):
        later, rewards, terminated, truncated, later_infos = env.step(target + 50)
        assert_same_raw(later, raw)
        np.testing.assert_array_equal(later_infos["progress"], infos["progress"])
        assert not rewards.any() and not terminated.any() and not truncated.any()


def test_success_on_the_last_step_is_a_success():
    """And not a time-out too: what follows it is of no value to a learner."""
    env = PushTVectorEnv(1, max_episode_steps=1)
    env.reset(seed=[0], options={"states": np.array([[30, 30, GOAL_X, GOAL_Y, GOAL_ANGLE]])})
    _, rewards, terminated, truncated, _ = env.step(np.full((1, 2), 30.0))
    assert (rewards[0], terminated[0], truncated[0]) == (1.0, True, False)


def test_stock_equals_fast():
    fast, stock = PushTVectorEnv(2, image_size=32), StockPushTVectorEnv(2, image_size=32)
    states = np.array([np.full(5, np.nan), behind_the_bar(distance=2)[0]])
    arguments = {"seed": [7, 8], "options": {"states": states}}
    (raw, infos), (stock_raw, stock_infos) = fast.reset(**arguments), stock.reset(**arguments)
    rng = np.random.default_rng(0)
    for _ in range(25):
        assert_same_raw(raw, stock_raw)
        np.testing.assert_allclose(infos["progress"], stock_infos["progress"], rtol=0, atol=1e-12)
        np.testing.assert_array_equal(infos["is_success"], stock_infos["is_success"])
        np.testing.assert_array_equal(fast.active, stock.active)
        actions = raw["block_pose"][:, :2] + rng.normal(0, 60, (2, 2))
        raw, rewards, *ended, infos = fast.step(actions)
        stock_raw, stock_rewards, *stock_ended, stock_infos = stock.step(actions)
        np.testing.assert_allclose(rewards, stock_rewards, rtol=0, atol=1e-12)
        np.testing.assert_array_equal(ended, stock_ended)
        np.testing.assert_array_equal(fast.frames(128, [1, 0]), stock.frames(128, [1, 0]))
    assert not fast.active[1]


def test_reset_mask_touches_only_the_named():
    env, undisturbed = PushTVectorEnv(3), PushTVectorEnv(3)
    for vector in (env, undisturbed):
        vector.reset(seed=[0, 1, 2])
    rng = np.random.default_rng(0)
    for step in range(60):
        if step == 30:
            raw, _ = env.reset(seed=[99, 98, 97], options={"reset_mask": np.array([False, True, False])})
            assert list(env.steps) == [30, 0, 30]
            fresh, _ = PushTVectorEnv(1).reset(seed=[98])
            assert_same_raw(row(raw, 1), row(fresh, 0))
        actions = rng.uniform(100, 400, (3, 2))
        raw, expected = env.step(actions)[0], undisturbed.step(actions)[0]
        for i in (0, 2):
            assert_same_raw(row(raw, i), row(expected, i))
    assert (raw["block_pose"][1] != expected["block_pose"][1]).any()


def test_a_start_belongs_to_its_seed():
    env = PushTVectorEnv(3)
    raw, _ = env.reset(seed=[5, 6, 5])
    assert_same_raw(row(raw, 0), row(raw, 2))
    assert (raw["block_pose"][0] != raw["block_pose"][1]).any()
    env.step(np.full((3, 2), 256.0))
    again, _ = env.reset(seed=[6, 5, 6])
    assert_same_raw(row(again, 1), row(raw, 0))
    assert_same_raw(row(again, 0), row(raw, 1))


def test_states_replace_the_seeds_starts():
    env = PushTVectorEnv(2)
    states = np.full((2, 7), np.nan)
    states[1] = [60, 450, 250, 150, 5.0, 40, -30]
    raw, infos = env.reset(seed=[5, 6], options={"states": states})
    ours, _ = PushTVectorEnv(1).reset(seed=[5])
    assert_same_raw(row(raw, 0), row(ours, 0))
    found = np.concatenate([raw["agent_pos"][1], raw["block_pose"][1], raw["agent_vel"][1]])
    np.testing.assert_allclose(found, states[1], rtol=0, atol=1e-12)
    assert infos["progress"][1] == env.envs[1]._get_coverage()


@pytest.mark.parametrize("env_class", [PushTVectorEnv, StockPushTVectorEnv])
def test_a_frame_shows_the_last_action_of_its_own_episode(env_class):
    env = env_class(2)
    env.reset(seed=[0, 1])
    unmarked = env.frames(96, [0, 1])
    env.step(np.array([[100.0, 200.0], [300.0, 50.0]]))
    red = (env.frames(96, [0, 1]) == [255, 0, 0]).all(axis=-1)
    assert red[0, 200 * 96 // 512, 100 * 96 // 512]
    assert red[1, 50 * 96 // 512, 300 * 96 // 512]
    env.reset(seed=[0, 1])
    np.testing.assert_array_equal(env.frames(96, [0, 1]), unmarked)


def test_observations_are_of_the_declared_space():
    env = PushTVectorEnv(3, image_size=24)
    env.reset(seed=[0, 0, 0], options={"reset_mask": np.array([False, True, False])})
    raw = env.step(np.full((3, 2), 300.0))[0]
    assert list(env.active) == [False, True, False]
    assert env.observation_space.contains(raw)
    assert env.single_observation_space.contains(row(raw, 1))


@pytest.mark.parametrize("shape", [(2,), (2, 3), (3, 2), (2, 2, 1)])
def test_wrong_actions_are_refused(shape):
    env = PushTVectorEnv(2)
    env.reset(seed=[0, 1])
    with pytest.raises(ValueError, match=r"expected shape \(2, 2\)"):
        env.step(np.zeros(shape))
    assert not env.steps.any()


@pytest.mark.parametrize("hold", [1, 4])
def test_with_hold_an_episode_ends_when_the_t_has_stayed(hold):
    env = PushTVectorEnv(1, hold=hold)
    state, target = behind_the_bar(distance=10)
    env.reset(seed=[0], options={"states": state[None]})
    covered = []
    while env.active[0]:
        _, _, terminated, truncated, infos = env.step(target[None])
        covered.append(bool(infos["is_success"][0]))
    assert terminated[0] and not truncated[0]
    assert covered[-hold - 1 :] == [True] * (hold + 1)
    assert "1" * (hold + 1) not in "".join("01"[c] for c in covered[:-1])


def test_pictures_are_drawn_where_something_moved():
    """Beside ones drawn anew, with a slot that is not watched, one that has ended, and one that begins."""
    env, rng = PushTVectorEnv(3, image_size=32), np.random.default_rng(0)
    raw, _ = env.reset(seed=range(3))

    def anew() -> np.ndarray:
        return np.stack([single._render() for single in env.envs])

    np.testing.assert_array_equal(raw["pixels"], anew())
    env.active[1] = False
    env.watched[2] = False
    before = raw["pixels"]
    for _ in range(3):
        raw, *_ = env.step(rng.uniform(0, 512, (3, 2)))
        np.testing.assert_array_equal(raw["pixels"][:2], anew()[:2])
        np.testing.assert_array_equal(raw["pixels"][2], before[2])
    assert (anew()[2] != before[2]).any()
    env.watched[:] = True
    raw, *_ = env.step(rng.uniform(0, 512, (3, 2)))
    np.testing.assert_array_equal(raw["pixels"], anew())
    raw, _ = env.reset(seed=[7, 8, 9], options={"reset_mask": np.arange(3) == 1})
    np.testing.assert_array_equal(raw["pixels"], anew())
    assert (raw["pixels"][1] != before[1]).any()
