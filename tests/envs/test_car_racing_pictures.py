"""CarRacing's pictures beside Gymnasium's own, and what is drawn when."""

import time

import gymnasium
import numpy as np
import pytest

from common.config import from_dict
from common.errors import UserError
from envs.car_racing.car import Car
from envs.car_racing.task import CarRacing
from envs.interfaces import Episode
from envs.pixels import PixelConfig, luminance
from envs.rollout import rollout
from tests.envs.driving import drive, undrawn_stock

SMALL = PixelConfig(size=16)


def test_the_stock_picture_is_gymnasiums():
    ours = CarRacing().vector_env(1, image_size=96, stock=True)
    theirs = gymnasium.make("CarRacing-v3").unwrapped
    ours.reset(seed=[3])
    theirs.reset(seed=3)
    theirs.t = 1.0
    for _ in range(8):
        action = drive(theirs)
        observations, *_ = ours.step(action[None])
        np.testing.assert_array_equal(observations["pixels"][0], theirs.step(action)[0])
    frames = ours.frames(60, np.arange(1))
    assert frames.shape == (1, 60, 60, 3) and (frames[0, :9] == 255).all()  # 3 to 2 on white
    half = CarRacing().vector_env(1, image_size=48, stock=True)
    observations, _ = half.reset(seed=[3])
    expected = half.cars[0].stock_picture(96).reshape(48, 2, 48, 2, 3).mean(axis=(1, 3))
    assert np.abs(observations["pixels"][0] - expected).max() <= 1


@pytest.mark.parametrize("seed", [3, 8])
def test_the_own_picture_looks_like_the_stock_one(seed):
    """In the scene, in the bar but for the score, and in the exact colours of tiles that were visited."""
    env = CarRacing().vector_env(1, image_size=96)
    env.reset(seed=[seed])
    car, theirs = env.cars[0], undrawn_stock()
    theirs.reset(seed=seed)
    for step in range(300):
        action = drive(theirs)
        env.step(action[None])
        theirs.step(action)
        if step % 50:
            continue
        off = np.abs(env.pixels[0].astype(int) - car.stock_picture(96))
        scene, around_the_car, bar = off[:84], off[66:78, 43:53], off[84:, 13:]
        assert scene.mean() < 1 and (scene.max(axis=-1) > 16).mean() < 0.015
        assert around_the_car.mean() < 12 and bar.mean() < 4
        assert env.pixels[0, 66:78, 43:53, 0].max() > 150  # there is a red car
    assert env.pixels[0, 84:, 13:].any()
    expected = [np.array(colour, int) for _, colour in theirs.road_poly]
    np.testing.assert_array_equal(car._colours[-len(expected) :].astype(int), expected)
    fresh = CarRacing().vector_env(1)
    fresh.reset(seed=[seed])
    assert (fresh.cars[0]._colours != car._colours).any()  # visits change them


@pytest.mark.parametrize("stock", [False, True])
def test_road_contrast_tells_visited_tiles_from_others(stock):
    """Behind the car all of the road has one tone; before it, a third of the tiles are far lighter."""
    task = CarRacing(road_contrast=True)
    env, driver = task.vector_env(1, 64, stock), CarRacing().scripted_policy()
    shown, codec = CarRacing().vector_env(1, driver.image_size), task.codec(1)
    raw, _ = env.reset(seed=[5])
    seen, _ = shown.reset(seed=[5])
    for _ in range(160):  # on the straight that the lap begins with
        actions = driver.act(seen)
        raw, *_ = env.step(actions)
        seen, *_ = shown.step(actions)
    codec.reset(np.ones(1, bool), raw)
    road = codec.encode(raw).pixels[0, :, 28:36, -1]
    plain = luminance(raw["pixels"])[0, :, 28:36, 0]
    behind, ahead = slice(53, 56), slice(2, 38)
    assert np.ptp(road[behind]) <= 10 and np.ptp(plain[ahead]) < 10 < 40 < np.ptp(road[ahead])
    assert np.median(road[ahead]) - np.median(road[behind]) > 15


def test_road_contrast_in_colour_is_refused():
    with pytest.raises(UserError, match="road_contrast must be false where pixels.grey is false"):
        from_dict(CarRacing, {"road_contrast": True, "pixels": {"grey": False}})


def test_the_own_picture_is_drawn_several_times_as_fast():
    env = CarRacing().vector_env(1, image_size=64)
    env.reset(seed=[0])
    car, seconds = env.cars[0], {"own": [], "stock": []}
    for _ in range(8):
        for name, draw in (("own", car.picture), ("stock", car.stock_picture)):
            started = time.process_time()
            draw(64)
            seconds[name].append(time.process_time() - started)
    assert np.median(seconds["stock"]) > 4 * np.median(seconds["own"])


@pytest.fixture
def drawn(monkeypatch) -> list[int]:
    """The sizes of all pictures that are drawn from now on."""
    sizes, picture = [], Car.picture
    monkeypatch.setattr(Car, "picture", lambda self, size: (sizes.append(size), picture(self, size))[1])
    return sizes


@pytest.mark.parametrize("off_road", [0.0, 0.5])
def test_skipped_steps_are_not_drawn_and_training_resumes_exactly(drawn, off_road):
    task = CarRacing(num_envs=2, pixels=SMALL, off_road_starts=off_road)
    env, rng = task.training_env(0, 0.99), np.random.default_rng(0)
    observations = env.reset()
    assert env.pixel_shape == (16, 16, 3) and len(drawn) == 2
    expected = np.tile(luminance(env.env.pixels), 3)
    for decision in range(12):
        np.testing.assert_array_equal(observations.pixels, expected)
        if decision == 6:
            observations = env.reset(np.array([False, True]))
            begun = np.stack([car.picture(16) for car in env.env.cars])
            expected[1] = np.tile(luminance(begun[1]), 3)
            np.testing.assert_array_equal(observations.pixels, expected)
        before = len(drawn)
        step = env.step(rng.uniform(-1, 1, (2, 2)))
        assert len(drawn) == before + 2 and step.durations.tolist() == [4, 4]
        now = np.stack([car.picture(16) for car in env.env.cars])  # as if every step had been drawn
        expected = np.concatenate([expected[..., 1:], luminance(now)], axis=-1)
        observations = step.observations

    before, restarted = len(drawn), task.training_env(5, 0.99)
    np.testing.assert_array_equal(restarted.load_state_dict(*env.state_dict()).pixels, observations.pixels)
    assert len(drawn) == before + 4  # both starts, both ends
    for _ in range(5):
        actions = rng.uniform(-1, 1, (2, 2))
        ours, theirs = env.step(actions), restarted.step(actions)
        np.testing.assert_array_equal(ours.observations.pixels, theirs.observations.pixels)
        np.testing.assert_array_equal(ours.rewards, theirs.rewards)


def test_training_from_beside_the_road_resumes_exactly_until_patience_is_out():
    """Slots of different ages, the younger of which waits while the older is replayed."""
    task = CarRacing(num_envs=3, pixels=SMALL, off_road_starts=0.7, patience=24)
    env, rng = task.training_env(4, 0.99), np.random.default_rng(4)
    env.reset()
    for decision in range(9):
        ended = env.step(rng.uniform(-1, 1, (3, 2)) * [1, 0]).truncated
        assert not ended.any() or decision > 4
        if decision in (2, 5):
            env.reset(np.array([False, decision == 2, True]) | ended)
        else:
            env.reset(ended)
    starts = env.start_states[:, 1]
    assert (np.abs(starts) > 7).any(), "one stands beside the road"
    restarted = task.training_env(5, 0.99)
    restarted.load_state_dict(*env.state_dict())
    np.testing.assert_array_equal(restarted.env.in_vain, env.env.in_vain)
    cut = np.zeros(3, bool)
    for _ in range(14):
        actions = rng.uniform(-1, 1, (3, 2)) * [1, 0]
        ours, theirs = env.step(actions), restarted.step(actions)
        np.testing.assert_array_equal(ours.truncated, theirs.truncated)
        np.testing.assert_array_equal(ours.rewards, theirs.rewards)
        np.testing.assert_array_equal(ours.observations.pixels, theirs.observations.pixels)
        cut |= ours.truncated
    assert cut.all()


class Looker:
    """Decides every three steps, by what it sees then."""

    n_action_steps, image_size, history = 3, 16, 1

    def __init__(self, slots: int) -> None:
        self.age, self.actions = np.zeros(slots, int), np.zeros((slots, 3))

    def seed_slots(self, seeds) -> None:
        pass

    def reset(self, slots: np.ndarray) -> None:
        self.age[slots] = 0

    def act(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        seen = observations["pixels"][:, ::3, ::5].astype(float).sum(axis=(1, 2, 3))
        steering = np.sin(seen)
        decided = np.stack([steering, 0.6 + 0 * seen, 0 * seen], axis=1)
        self.actions = np.where((self.age % 3 == 0)[:, None], decided, self.actions)
        self.age += 1
        return self.actions


def play(monkeypatch, keep_pixels: bool) -> dict[int, Episode]:
    env = CarRacing().vector_env(2, image_size=16)
    for single, steps in zip(env.envs, (25, 40), strict=True):
        monkeypatch.setattr(single, "_max_episode_steps", steps)
    episodes = rollout(env, Looker(2), [1, 2, 3], keep_pixels=keep_pixels)
    return {episode.seed: episode for episode in episodes}


def test_an_evaluation_draws_what_the_policy_decides_on(drawn, monkeypatch):
    """And plays the same episodes as one that draws and keeps everything."""
    every = play(monkeypatch, keep_pixels=True)
    assert len(drawn) == sum(len(episode) + 1 for episode in every.values())
    drawn.clear()
    needed = play(monkeypatch, keep_pixels=False)
    assert len(drawn) < 0.4 * sum(len(episode) + 1 for episode in every.values()) + 2 * len(every)
    for seed, episode in every.items():
        np.testing.assert_array_equal(needed[seed].actions, episode.actions)
        np.testing.assert_array_equal(needed[seed].rewards, episode.rewards)
        np.testing.assert_array_equal(needed[seed].progress, episode.progress)
        assert "pixels" not in needed[seed].observations
        assert episode.observations["pixels"].shape == (len(episode) + 1, 16, 16, 3)
        assert len(np.unique(episode.observations["pixels"], axis=0)) > 0.9 * len(episode)
