"""The fast PushT against gym_pusht's own: the same numbers to the last bit, and the same manners."""

import copy
import pickle
import warnings
from pathlib import Path

import gym_pusht  # noqa: F401  registers gym_pusht/PushT-v0
import gymnasium
import numpy as np
import pytest
from gym_pusht.envs.pusht import PushTEnv as StockPushTEnv
from gymnasium.utils.env_checker import check_env

import envs  # noqa: F401  registers pusht_fast/PushT-v0
from envs.pusht.simulator import PushTEnv

OBS_TYPES = ("state", "environment_state_agent_pos", "pixels", "pixels_agent_pos")
DEMONSTRATIONS = Path(__file__).parents[3] / "shared" / "data" / "human_pusht.npz"
GOAL_POSE = np.array([256.0, 256.0, np.pi / 4])


def push(env, rng) -> np.ndarray:
    """An action somewhere around the block's middle, so that the agent is at the block most of the time."""
    return np.clip(env.block.local_to_world((0, 45)) + rng.normal(0, 50, 2), 0, 512).astype(np.float32)


def assert_equal(ours, stocks) -> None:
    """Equal to the last bit, in type and in the order of keys."""
    assert type(ours) is type(stocks)
    if isinstance(ours, dict):
        assert list(ours) == list(stocks)
        for name in ours:
            assert_equal(ours[name], stocks[name])
    elif isinstance(ours, np.ndarray):
        assert ours.dtype == stocks.dtype
        np.testing.assert_array_equal(ours, stocks)
    elif isinstance(ours, tuple):
        for our, stock in zip(ours, stocks, strict=True):
            assert_equal(our, stock)
    else:
        assert ours == stocks


def assert_same_step(ours: tuple, stocks: tuple) -> None:
    """What `step` returns: equal, but for rounding in the coverage and therefore in the reward."""
    observation, reward, terminated, truncated, info = ours
    stock_observation, stock_reward, stock_terminated, stock_truncated, stock_info = stocks
    assert abs(reward - stock_reward) < 1e-12
    assert abs(info["coverage"] - stock_info["coverage"]) < 1e-12
    assert_equal(observation, stock_observation)
    assert_equal((terminated, truncated), (stock_terminated, stock_truncated))
    assert_equal({**info, "coverage": 0.0}, {**stock_info, "coverage": 0.0})
    assert type(reward) is type(stock_reward) and type(info["coverage"]) is type(stock_info["coverage"])


def assert_same_episode(env, stock, rng, length: int) -> int:
    """Play the same pushes in both; returns the number of steps with contacts."""
    touching = 0
    for _ in range(length):
        action = push(stock, rng)
        result, stock_result = env.step(action), stock.step(action)
        touching += stock_result[-1]["n_contacts"]
        if not env.count_contacts:
            del stock_result[-1]["n_contacts"]
        assert_same_step(result, stock_result)
    return touching


@pytest.mark.slow
@pytest.mark.parametrize(
    "kwargs", [{}, {"block_cog": (3.0, 70.0)}, {"damping": 0.6}, {"block_cog": (0.0, 45.0), "damping": 0.95}]
)
def test_steps_equal_stock_from_seeds(kwargs):
    env, stock, rng = PushTEnv(**kwargs), StockPushTEnv(**kwargs), np.random.default_rng(0)
    touching = 0
    for seed in range(6):
        observation, info = env.reset(seed=seed)
        stock_observation, stock_info = stock.reset(seed=seed)
        del stock_info["n_contacts"]
        assert_equal((observation, info), (stock_observation, stock_info))
        touching += assert_same_episode(env, stock, rng, length=150)
    assert touching > 400


def test_count_contacts_gives_stocks_info():
    env, stock, rng = PushTEnv(count_contacts=True), StockPushTEnv(), np.random.default_rng(0)
    for seed in range(3):
        assert_equal(env.reset(seed=seed), stock.reset(seed=seed))
        assert_same_episode(env, stock, rng, length=150)


def test_steps_equal_stock_from_given_states():
    env, stock, rng = PushTEnv(), StockPushTEnv(), np.random.default_rng(0)
    near = GOAL_POSE + rng.normal(0, [3, 3, 0.05], (20, 3))
    anywhere = rng.uniform([100, 100, -7], [400, 400, 7], (20, 3))
    successes = 0
    for pose in (*near, *anywhere):
        state = [*rng.uniform(50, 450, 2), *pose, *rng.normal(0, 100, 2)]
        env.set_state(state)
        PushTEnv.set_state(stock, state)
        successes += stock._get_coverage() > 0.95
        assert_equal(env.get_obs(), stock.get_obs())
        assert_same_episode(env, stock, rng, length=15)
    assert successes > 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, value",
    [
        ("k_p", 0),
        ("k_v", 3.5),
        ("dt", 0.005),
        ("control_hz", 20),
        ("success_threshold", 0.01),
        ("damping", 0.9),
        ("block_cog", (3.0, 70.0)),
        ("obs_type", "environment_state_agent_pos"),
    ],
)
@pytest.mark.parametrize("when", ["before the reset", "after it"])
def test_what_is_assigned_later_counts_as_in_stock(name, value, when):
    env, stock, rng = PushTEnv(), StockPushTEnv(), np.random.default_rng(0)
    for simulator in (env, stock):
        if when == "after it":
            simulator.reset(seed=3)
        setattr(simulator, name, value)
        if when != "after it":
            simulator.reset(seed=3)
    assert_same_episode(env, stock, rng, length=40)
    for simulator in (env, stock):
        simulator.reset(seed=4)
    assert_same_episode(env, stock, rng, length=20)


def test_a_goal_that_would_not_move_says_so():
    env = PushTEnv()
    env.reset(seed=0)
    env.goal_pose = GOAL_POSE  # where it is
    with pytest.raises(ValueError, match="the goal of pusht_fast lies at"):
        env.goal_pose = np.array([200.0, 300.0, -1.0])
    with pytest.raises(ValueError, match="read-only"):
        env.goal_pose[0] = 200.0


def test_coverage_equals_shapely():
    env, rng = PushTEnv(), np.random.default_rng(0)
    env.reset(seed=0)
    quarter_turns = GOAL_POSE + np.outer(range(4), [0, 0, np.pi / 2])
    along_the_bar = GOAL_POSE + np.outer(
        range(-5, 6), [15 * np.sqrt(2), 15 * np.sqrt(2), 0]
    )  # edges upon edges
    near = GOAL_POSE + rng.normal(0, [10, 10, 0.2], (300, 3))
    far = rng.uniform([0, 0, -7], [512, 512, 7], (300, 3))
    for pose in (*quarter_turns, *along_the_bar, *near, *far):
        env.set_state([0, 0, *pose])
        coverage = env._get_coverage()
        assert 0.0 <= coverage < 1.0 + 1e-12
        assert abs(coverage - StockPushTEnv._get_coverage(env)) < 1e-12
    env.set_state([0, 0, *GOAL_POSE])
    assert env._get_coverage() == pytest.approx(1.0)


@pytest.mark.parametrize(
    "convert",
    [
        np.float64,
        np.float32,
        lambda action: action.astype(int),
        lambda action: tuple(map(float, action)),
        lambda action: 3 * action - 500,  # also far outside the board
    ],
)
def test_any_kind_of_action(convert):
    env, stock, rng = PushTEnv(), StockPushTEnv(), np.random.default_rng(0)
    env.reset(seed=3)
    stock.reset(seed=3)
    for _ in range(100):
        action = convert(push(stock, rng))
        assert_equal(env.step(action)[0], stock.step(action)[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("obs_type", "length"),
    [("state", 100), ("environment_state_agent_pos", 300), ("pixels", 25), ("pixels_agent_pos", 25)],
)
def test_observations_equal_stock(obs_type, length):
    env, stock, rng = PushTEnv(obs_type=obs_type), StockPushTEnv(obs_type=obs_type), np.random.default_rng(0)
    for seed in (5, 6):
        assert_equal(env.reset(seed=seed)[0], stock.reset(seed=seed)[0])
        assert_same_episode(env, stock, rng, length)
    assert env.observation_space == stock.observation_space
    assert env.action_space == stock.action_space


def test_pictures_equal_stock():
    """In both sizes; the larger shows the last action, also the one before a reset, as stock's does."""
    sizes = {
        "observation_width": 120,
        "observation_height": 96,
        "visualization_width": 300,
        "visualization_height": 200,
    }
    kwargs = {"obs_type": "pixels"} | sizes
    env, stock, rng = PushTEnv(**kwargs), StockPushTEnv(**kwargs), np.random.default_rng(0)
    for seed in (7, 8):
        assert_equal(env.reset(seed=seed)[0], stock.reset(seed=seed)[0])
        assert_equal(env.render(), stock.render())
        for _ in range(10):
            action = push(stock, rng)
            assert_equal(env.step(action)[0], stock.step(action)[0])
            assert_equal(env.render(), stock.render())


def test_an_episode_is_the_same_after_many_others():
    used, fresh = PushTEnv(), PushTEnv()
    rng = np.random.default_rng(0)
    for seed in range(20):
        used.reset(seed=seed)
        for _ in range(30):
            used.step(push(used, rng))
    used.reset(seed=99)
    fresh.reset(seed=99)
    for _ in range(100):
        action = push(fresh, rng)
        assert_equal(used.step(action), fresh.step(action))


def test_reset_to_state_keeps_the_legacy_order():
    env, stock = PushTEnv(), StockPushTEnv()
    options = {"reset_to_state": [10.0, 20.0, 200.0, 300.0, 1.0]}
    observation, _ = env.reset(seed=0, options=options)
    assert_equal(observation, stock.reset(seed=0, options=options)[0])
    assert np.abs(observation[2:4] - [200, 300]).max() > 10


def test_set_state_is_exact():
    env = PushTEnv()
    state = np.array([300.0, 100.0, 200.0, 250.0, 4.0, -30.0, 20.0])
    env.set_state(state)
    np.testing.assert_allclose(env.get_state(), state, rtol=0, atol=1e-12)
    np.testing.assert_allclose(env.get_obs(), state[:5], rtol=0, atol=1e-12)
    env.set_state(state[:5])
    np.testing.assert_array_equal(env.get_state()[5:], 0.0)


def test_a_state_has_one_future():
    """Whatever happened before, here a contact."""
    used, fresh, rng = PushTEnv(), PushTEnv(), np.random.default_rng(0)
    used.reset(seed=0)
    for _ in range(30):
        used.step(push(used, rng))
    state = used.get_state()
    used.set_state(state)
    fresh.set_state(state)
    for _ in range(100):
        action = push(fresh, rng)
        assert_equal(used.step(action), fresh.step(action))


def test_a_state_of_one_env_goes_on_alike_in_another():
    """Here out of contact: the impulses that Chipmunk remembers of a contact are not in a state."""
    first, second = PushTEnv(), PushTEnv()
    first.set_state([100.0, 450.0, 256.0, 200.0, 1.0])
    for _ in range(5):
        first.step([20.0, 20.0])
    second.set_state(first.get_state())
    for target in np.linspace([20, 20], [400, 300], 40):
        np.testing.assert_allclose(second.step(target)[0], first.step(target)[0], rtol=0, atol=1e-9)


@pytest.mark.skipif(not DEMONSTRATIONS.exists(), reason=f"no {DEMONSTRATIONS}")
def test_human_demonstrations_replay():
    """Recorded actions lead through the recorded states, and none of these is a success yet."""
    data = np.load(DEMONSTRATIONS)
    states, actions, ends = data["state"], data["action"], data["episode_ends"]
    env = PushTEnv()
    errors = []
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        env.set_state(states[start])
        replayed = [env.get_obs()]
        for action in actions[start : end - 1]:
            observation, _, terminated, _, _ = env.step(action)
            assert not terminated
            replayed.append(observation)
        errors.append(np.abs(np.array(replayed) - states[start:end])[:, :4].max())
    assert len(errors) == 206
    assert max(errors) < 1.0  # pixel
    assert np.sum(np.array(errors) < 0.01) >= 205


@pytest.mark.parametrize("obs_type", OBS_TYPES)
def test_gymnasium_has_no_complaint_that_stock_does_not_get(obs_type):
    complaints = {}
    for name in ("gym_pusht", "pusht_fast"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            check_env(gymnasium.make(f"{name}/PushT-v0", obs_type=obs_type).unwrapped)
        complaints[name] = {str(warning.message) for warning in caught}
    assert complaints["pusht_fast"] <= complaints["gym_pusht"]


def test_make_takes_the_arguments_of_stock():
    kwargs = {
        "obs_type": "pixels_agent_pos",
        "render_mode": "rgb_array",
        "block_cog": (0.0, 40.0),
        "damping": 0.1,
        "observation_width": 64,
        "observation_height": 48,
        "visualization_width": 200,
        "visualization_height": 100,
    }
    env = gymnasium.make("pusht_fast/PushT-v0", **kwargs)
    observation, _ = env.reset(seed=0)
    assert observation["pixels"].shape == (48, 64, 3)
    assert env.render().shape == (100, 200, 3)
    with pytest.raises(ValueError, match="Unknown obs_type"):
        gymnasium.make("pusht_fast/PushT-v0", obs_type="sound")


def test_time_limit():
    env = gymnasium.make("pusht_fast/PushT-v0")
    env.reset(seed=0)
    for step in range(1, 301):
        _, _, terminated, truncated, _ = env.step(np.array([20.0, 20.0], np.float32))
        assert (terminated, truncated) == (False, step == 300)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda env: pickle.loads(pickle.dumps(env))])
def test_a_copy_is_an_env_of_its_own(duplicate):
    env = PushTEnv(obs_type="environment_state_agent_pos", damping=0.3)
    env.reset(seed=4)
    env.render()
    twin = duplicate(env)
    assert_equal(twin.reset(), env.reset())  # the generator of start states went along
    for target in np.random.default_rng(0).uniform(100, 400, (20, 2)):
        assert_equal(twin.step(target), env.step(target))


def test_human_mode_shows_a_window_and_closes():
    env = PushTEnv(render_mode="human")
    env.reset(seed=0)
    assert env.window is not None
    assert env.render() is None
    env.close()
    env.close()
    PushTEnv().close()
