"""CarRacing's driver that is written by hand: it laps, along the arcs that it means, on either side alike."""

import numpy as np
import pytest

from envs.car_racing.car import original
from envs.car_racing.driver import CURVATURES, DISTANCES, Driver
from envs.car_racing.task import CarRacing
from envs.rollout import rollout


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
    observations, _ = env.reset(seed=[1, 2])
    for _ in range(300):
        actions = driver.act(observations)
        mirrored = observations | {"pixels": observations["pixels"][:, :, ::-1]}
        np.testing.assert_allclose(driver.act(mirrored), actions * [-1, 1, 1], atol=0.1)
        steering.append(actions[:, 0])
        observations, *_ = env.step(actions)
    assert np.max(steering) > 0.2 and np.min(steering) < -0.2, "there are bends to both sides"
