"""CarRacing's driver that is written by hand: it laps, along the arcs that it means, on either side alike."""

import numpy as np
import pytest

from envs.car_racing.car import original
from envs.car_racing.driver import CURVATURES, DISTANCES, Driver
from envs.car_racing.task import CarRacing
from envs.rollout import rollout


def test_a_decision_is_held_slot_by_slot():
    """With episodes that begin at any time, against the decision counted by hand."""
    env, driver = CarRacing().vector_env(2, Driver.image_size), Driver()
    observations, _ = env.reset(seed=[1, 2])
    began, decided = np.zeros(2, int), np.zeros((2, 3))
    for t in range(30):
        if t == 6:
            driver.reset(np.array([1]))
            began[1] = t
        for slot in range(2):
            if (t - began[slot]) % 4 == 0:
                alone = observations["pixels"][slot : slot + 1], observations["state"][slot : slot + 1, 0]
                decided[slot] = driver.decide(*alone)[0]
        actions = driver.act(observations)
        np.testing.assert_allclose(actions, decided, rtol=1e-12)
        observations, *_ = env.step(actions)


@pytest.mark.slow
def test_the_driver_laps():
    episodes = list(rollout(CarRacing().vector_env(2, Driver.image_size), Driver(), [200, 204]))
    assert all(episode.rewards.sum() > 900 for episode in episodes)


def test_the_drivers_arcs_are_those_of_small_steps():
    """Walked in the picture's pixels, 10 steps per unit of length."""
    driver = Driver()
    scale = original.SCALE * original.ZOOM * 96 / np.array([1000, 800])
    for arc in (0, 13, 20, 40):
        x, y, heading, walked = 48.0, 72.0, 0.0, 0
        for place, distance in enumerate(DISTANCES):
            while walked < 10 * distance:
                heading += CURVATURES[arc] / 20
                x, y = x + scale[0] * np.sin(heading) / 10, y - scale[1] * np.cos(heading) / 10
                heading += CURVATURES[arc] / 20
                walked += 1
            if not driver.outside[arc, place]:
                np.testing.assert_allclose(
                    [driver.x[arc, place], driver.y[arc, place]], [x - 0.5, y - 0.5], atol=0.6
                )
            else:
                assert x < 1 or x > 95 or y < 1


def test_a_mirrored_picture_is_driven_mirrored():
    env, driver, steering = CarRacing().vector_env(2, Driver.image_size), Driver(), []
    pedals: list[float] = []
    observations, _ = env.reset(seed=[1, 2])
    for _ in range(300):
        actions = driver.act(observations)
        pictures, speeds = observations["pixels"], observations["state"][:, 0]
        decided, mirrored = (driver.decide(each, speeds) for each in (pictures, pictures[:, :, ::-1]))
        np.testing.assert_allclose(mirrored[:, 0], -decided[:, 0], atol=0.1)
        pedals.append(np.abs(mirrored[:, 1:] - decided[:, 1:]).mean())
        steering.append(actions[:, 0])
        observations, *_ = env.step(actions)
    assert np.mean(pedals) < 0.02, "how far the road is free differs by a pixel now and then"
    assert np.max(steering) > 0.2 and np.min(steering) < -0.2, "there are bends to both sides"
