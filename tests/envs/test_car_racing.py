"""CarRacing: physics, tracks and rewards beside Gymnasium's own, and what a learner is told of them."""

import sys
from pathlib import Path

import numpy as np
import pytest

from common.config import to_dict
from common.errors import UserError
from envs.car_racing.car import MOST_MISSED, Car, original
from envs.car_racing.task import CarRacing, mirror_image
from envs.interfaces import Episode
from envs.pixels import PixelConfig
from envs.tasks import task_class
from sac.escape import PATIENCE, Escape
from sac.policy import SACConfig, decode_config
from tests.envs.driving import drive, undrawn_stock

SMALL = PixelConfig(size=16)  # nobody looks at them


def bodies(car: original.CarRacing) -> np.ndarray:
    return np.array([(*body.position, body.angle, *body.linearVelocity) for body in car.car.drawlist])


def test_physics_tracks_and_rewards_are_gymnasiums():
    """Of two slots, one of which begins again: an episode depends on its seed alone."""
    env = CarRacing().vector_env(2)
    theirs = {seed: undrawn_stock() for seed in (11, 12, 13)}
    for seed, car in theirs.items():
        car.reset(seed=seed)
    seeds, progress = [11, 13], {}
    env.reset(seed=seeds)
    for step in range(300):
        if step == 140:
            seeds = [12, 13]
            env.reset(seed=seeds, options={"reset_mask": np.array([True, False])})
        actions = np.stack([drive(car) for car in env.cars])
        observations, rewards, terminated, truncated, infos = env.step(actions)
        for slot, seed in enumerate(seeds):
            car = theirs[seed]
            _, reward, ended, _, info = car.step(actions[slot])
            assert rewards[slot] == reward and terminated[slot] == ended and not truncated[slot]
            progress[seed] = car.tile_visited_count / len(car.track)
            assert infos["progress"][slot] == progress[seed]
            np.testing.assert_array_equal(bodies(env.cars[slot]), bodies(car))
            hull = car.car.hull
            assert observations["state"][slot, 0] == pytest.approx(np.hypot(*hull.linearVelocity))
            np.testing.assert_allclose(observations["place"][slot], hull.position, rtol=1e-6)
            assert observations["state"][slot, 6] == pytest.approx(hull.angularVelocity)
            assert infos["is_success"][slot] == info.get("lap_finished", False)
        assert set(infos) == {"is_success", "progress"} and set(observations) == {"state", "place", "missed"}
    assert min(progress.values()) > 0.1


def test_tiles_that_are_passed_by_are_counted_and_cost_their_penalty():
    """Against a list of all tiles at every step, of a driver who cuts the corners."""
    first, second = (
        CarRacing(num_envs=1, action_repeat=1, axes=3, pixels=SMALL, reward_scale=1.0, missed_penalty=penalty)
        for penalty in (0.0, 2.5)
    )
    plain, strict = first.training_env(3, gamma=1.0), second.training_env(3, gamma=1.0)
    plain.reset(), strict.reset()
    car, passed_by, missed = strict.env.cars[0], set(), 0
    for _ in range(250):
        action = drive(car, tiles=12)[None] * [1, 2, 2] - [0, 1, 1]
        before = missed
        rewards = plain.step(action).rewards[0], strict.step(action).rewards[0]
        visited = [tile.idx for tile in car.road if tile.road_visited]
        passed_by |= set(range(1, max(visited, default=0) - 2)) - set(visited)
        missed = sum(any(i - k not in passed_by for k in range(1, MOST_MISSED + 1)) for i in passed_by)
        assert strict.raw["missed"][0] == missed
        assert rewards[0] - rewards[1] == pytest.approx(2.5 * (missed - before), abs=1e-4)
    assert 3 < missed < len(passed_by) < 60 and max(visited) > 60


@pytest.mark.parametrize(
    "steps",  # newly visited tiles, the one under the wheels, tiles that were passed by
    [
        [([1, 2, 3], 3, 0), ([-1, -2], -2, 0), ([70], 70, 10)],  # turned back at the start; a shortcut
        [([1, 2, 9], 9, 4), ([10, 11, 12], 12, 6), ([13, 15, 16, 17, 18], 18, 7)],  # corners cut
        [(range(120), 119, 0), (range(120, 240), 239, 0), ([], 2, 0), ([], 3, 10)],  # over the line
    ],
)
def test_of_tiles_in_a_row_ten_count_those_at_the_end_of_the_lap_too(steps):
    """A wheel may still come to the three tiles behind the foremost one."""
    env = CarRacing().vector_env(1)
    env.reset(seed=[3])
    car = env.cars[0]
    assert 250 < len(car.road) < 4 * 80
    for visited, under_the_wheels, missed in steps:
        for i in visited:
            car.road[i].road_visited = True
        for wheel in car.car.wheels:
            wheel.tiles = {car.road[under_the_wheels]}
        car._count_missed()
        assert car.missed == missed


def test_a_lap_pays_its_reward_in_training():
    gains = []
    for pays in (0.0, 70.0):
        env = CarRacing(num_envs=1, pixels=SMALL, reward_scale=0.5, lap_reward=pays).training_env(3, 0.99)
        env.reset()
        before = env.step(np.array([[0.0, 1.0]]))
        env.env.cars[0].tile_visited_count = len(env.env.cars[0].track)
        end = env.step(np.array([[0.0, 1.0]]))
        assert end.terminated[0] and end.is_success[0] and not before.terminated[0]
        gains.append([before.rewards[0], end.rewards[0]])
    assert gains[1] == pytest.approx([gains[0][0], gains[0][1] + 0.5 * 70.0])


def place(car: original.CarRacing, x: float, y: float, angle: float) -> None:
    """Put a car that rests somewhere else."""
    hull, wheels = car.car.hull, car.car.wheels
    places = [hull.GetLocalPoint(wheel.position) for wheel in wheels]
    hull.position, hull.angle = (x, y), angle
    for wheel, local in zip(wheels, places, strict=True):
        wheel.position, wheel.angle = hull.GetWorldPoint(local), angle


def test_in_the_mirror_a_car_steers_the_other_way_and_the_picture_is_flipped():
    """Two cars on grass, on either side of an axis, one of which plays the other's mirrored actions."""
    cars = Car(), Car()
    symmetry, rng = mirror_image(3), np.random.default_rng(3)
    for car, side in zip(cars, (1, -1), strict=True):
        car.reset(seed=7)
        place(car, side * 300.0, 20.0, side * 0.4)
    cars[1]._ground[..., 0] *= -1
    for _ in range(80):
        action = np.append(rng.uniform(-0.2, 1), rng.uniform(0, [1.0, 0.1])).astype(np.float32)
        cars[0].step(action)
        cars[1].step(action[symmetry.action_order] * symmetry.action_signs)
    (x, y), (mirrored_x, mirrored_y) = (car.car.hull.position for car in cars)
    assert np.hypot(x - 300, y - 20) > 3, "it drove"
    assert abs(cars[0].car.hull.angle - 0.4) > 0.1, "and turned"
    assert (-mirrored_x, mirrored_y) == pytest.approx((x, y), abs=0.05)
    assert -cars[1].car.hull.angle == pytest.approx(cars[0].car.hull.angle, abs=0.01)
    road = slice(0, 56)  # rows above the bar
    picture, mirrored = (car.picture(64)[road].astype(int) for car in cars)
    assert np.abs(picture[:, ::-1] - mirrored).mean() < 1 < np.abs(picture - mirrored).mean()
    two_axes = mirror_image(2)
    assert [*two_axes.action_order, *two_axes.action_signs] == [0, 1, -1, 1]


def test_a_checkpoint_from_before_the_penalty_opens():
    config = to_dict(SACConfig(task="car_racing", action_size=2, hidden_sizes=(4,)))
    config |= {"env": to_dict(CarRacing(axes=2))}
    del config["steering"], config["env"]["missed_penalty"]
    assert decode_config(Path("config.json"), config)[1] == CarRacing(axes=2)
    del config["env"]["patience"]
    with pytest.raises(UserError, match="env: patience missing"):
        decode_config(Path("config.json"), config)


def test_a_lap_is_all_tiles_because_the_car_begins_on_the_one_that_would_end_it_sooner():
    """Gymnasium's: with 95 % a first visit of tile 0 ends a lap."""
    stock = undrawn_stock()
    for lacking in (1, 0):
        stock.reset(seed=3)
        stock.step(np.zeros(3, np.float32))
        assert stock.road[0].road_visited
        stock.tile_visited_count = len(stock.track) - lacking
        assert stock.step(np.zeros(3, np.float32))[2] == (not lacking)
    assert CarRacing.progress_goal == 1.0


def test_leaving_the_field_ends_the_episode_and_so_does_the_clock():
    env = CarRacing().vector_env(2, image_size=16)
    env.reset(seed=[5, 5])
    env.watched[:] = False
    rewards, ended = [], []
    while env.active.any():
        before = env.pixels.copy()
        actions = np.array([[0.0, 0.5, 0.0], [0.0, 0.0, 0.0]])  # straight on, and never started
        _, reward, terminated, truncated, infos = env.step(actions)
        rewards.append(reward)
        ended.append((terminated, truncated))
        changed = (env.pixels != before).any(axis=(1, 2, 3))
        assert not changed[~(terminated | truncated)].any()  # of those that end the last picture is drawn
        assert changed[0] == terminated[0]
    ended = np.array(ended)
    np.testing.assert_array_equal(ended.sum(axis=0), [[1, 0], [0, 1]])
    crashed = int(np.flatnonzero(ended[:, 0, 0])[0])
    rewards = np.array(rewards)
    assert rewards[crashed, 0] == -100 and (rewards[crashed + 1 :, 0] == 0).all()
    assert len(ended) == 1_000 and rewards[-1, 1] == pytest.approx(-0.1)
    assert 0 < infos["progress"][1] < infos["progress"][0] < 0.5

    env = CarRacing().vector_env(1)
    env.envs[0]._max_episode_steps = crashed + 1  # the clock runs out in the same step
    env.reset(seed=[5])
    while env.active[0]:
        _, _, terminated, truncated, _ = env.step(np.array([[0.0, 0.5, 0.0]]))
    assert terminated[0] and not truncated[0]


def test_patience_is_for_training_and_counts_from_the_latest_tile():
    task = CarRacing(num_envs=1, patience=40, action_repeat=1, pixels=SMALL)
    env = task.training_env(0, 0.99)
    env.reset()
    gains = []
    while True:
        action = [0.0, 1.0] if len(gains) < 60 else [0.0, -1.0]  # off, and then stopped
        step = env.step(np.array([action]))
        gains.append(step.rewards[0] > 0)
        if step.truncated[0]:
            break
    assert not step.terminated[0] and np.flatnonzero(gains)[-1] == len(gains) - 41 > 20
    env.reset(step.truncated)  # counts anew: the first tiles are under the car, none comes
    durations = [env.step(np.array([[0.0, -1.0]])).truncated[0] for _ in range(45)]
    assert 40 <= durations.index(True) + 1 <= 42
    assert CarRacing(patience=40).vector_env(1).patience == 0
    assert task.training_env(0, 0.99).env.patience == 40


@pytest.mark.slow
def test_a_car_that_stands_escapes_and_one_that_drives_does_not():
    """The first brakes after some steps, and steers; the other is driven along the road."""
    env, motion = CarRacing(num_envs=2).vector_env(2), CarRacing.must_move
    assert motion
    escape, every = Escape(motion, action_size=2), np.ones(2, bool)
    observations, _ = env.reset(seed=[3, 3])
    for decision in range(60):
        noise = escape.noise(observations, np.full(2, decision == 0), every)
        if decision > 45:
            assert noise is not None and noise[0].any() and not noise[1].any()
        elif decision < 15 + PATIENCE:
            assert noise is None
        for t in range(4):
            wiggling = np.array([np.sin(4 * decision + t), 0.0, 0.8])
            driven = drive(env.cars[1])
            observations, *_ = env.step(np.stack([wiggling if decision >= 15 else driven, driven]))


def test_actions_of_two_and_of_three_axes():
    raw, slots = {"pixels": np.zeros((3, 16, 16, 3), np.uint8)}, np.ones(3, bool)
    limits = {"steering": 0.5, "gas": 0.8, "brake": 0.2, "pixels": SMALL}
    two, three = CarRacing(**limits).codec(3), CarRacing(**limits, axes=3).codec(3)
    assert (two.action_size, three.action_size) == (2, 3)
    played = two.decode(np.array([[-1, 1], [0.5, -1], [0, 0.5]]), raw, slots)
    np.testing.assert_allclose(played, [[-0.5, 0.8, 0], [0.25, 0, 0.2], [0, 0.4, 0]], atol=1e-7)
    played = three.decode(np.array([[1, 1, 1], [-1, -1, -1], [0, 0, 0.5]]), raw, slots)
    np.testing.assert_allclose(played, [[0.5, 0.8, 0.2], [-0.5, 0, 0], [0, 0.4, 0.15]], atol=1e-7)


def test_the_numbers_of_an_evaluation():
    episodes = [
        Episode(0, {}, np.zeros((2, 3)), np.array([1.0, 2.0]), progress=np.array([0.0, 0.1, 0.5])),
        Episode(1, {}, np.zeros((1, 3)), np.array([-4.0]), progress=np.array([0.0, 0.25])),
    ]
    numbers = CarRacing().summarize(episodes)
    assert numbers["avg_sum_reward"] == -0.5 and numbers["mean_progress"] == 0.375
    assert task_class("car_racing") is CarRacing


def test_without_box2d_there_is_a_sentence(monkeypatch):
    for module in list(sys.modules):
        if module.startswith(("Box2D", "gymnasium.envs.box2d", "envs.car_racing")):
            monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "Box2D", None)
    with pytest.raises(UserError, match="task car_racing needs Box2D, .*: pip install --no-deps box2d=="):
        task_class("car_racing")


def test_an_episode_off_the_road_is_the_lap_of_a_car_that_was_put_there():
    """Where it stands, what it has visited, and the first tile that pays, against the track itself."""
    env = CarRacing().vector_env(3)
    states = np.array([[0.5, 10.0, 1.0], [np.nan] * 3, [0.25, 0.0, 0.0]])
    raw, infos = env.reset(seed=[5, 6, 7], options={"states": states})
    car, own, on_road = env.cars
    tile = len(car.track) // 2
    _, angle, x, y = car.track[tile]
    right = np.array([np.cos(angle), np.sin(angle)])
    np.testing.assert_allclose(raw["place"][0], [x, y] + 10.0 * right, atol=0.2)
    assert car.car.hull.angle == pytest.approx(angle + 1.0, abs=0.05)
    assert raw["state"][0, 0] < 1.0 and not any(wheel.tiles for wheel in car.car.wheels)
    assert [each.road_visited for each in car.road] == [i <= tile for i in range(len(car.road))]
    np.testing.assert_allclose(infos["progress"][0], (tile + 1) / len(car.track))
    alone = CarRacing().vector_env(1)
    alone.reset(seed=[6])
    np.testing.assert_array_equal(bodies(own), bodies(alone.cars[0]))
    before = on_road.tile_visited_count
    for step in range(60):
        _, rewards, *_ = env.step(np.tile([0.0, 0.5, 0.0], (3, 1)))
        assert rewards[0] == pytest.approx(-0.1) or step > 10, "it stands beside the road"
    assert on_road.tile_visited_count > before and not on_road.missed, "the tiles behind count as driven"


def test_starts_off_the_road_are_a_share_of_those_of_training_and_have_more_patience():
    starts, lengths = [], []
    for share in (0.0, 0.5, 1.0):
        task = CarRacing(num_envs=4, pixels=SMALL, patience=12, off_road_starts=share)
        env = task.training_env(seed=1, gamma=0.9)
        env.reset()
        for _ in range(20):
            env.reset()
            starts.append((share, ~np.isnan(env.start_states).any(axis=1)))
        while not env.step(np.tile([0.0, -1.0], (4, 1))).truncated.any():
            pass
        lengths.append(env.lengths.max())
    drawn = {
        share: np.concatenate([one for other, one in starts if other == share]).mean() for share, _ in starts
    }
    assert drawn[0.0] == 0.0 and 0.3 < drawn[0.5] < 0.7 and drawn[1.0] == 1.0
    assert lengths == [12, lengths[1], 24]
