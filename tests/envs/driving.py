"""Gymnasium's CarRacing without its pictures, and somebody who drives it."""

import numpy as np

from envs.car_racing.car import original


def undrawn_stock() -> original.CarRacing:
    """Gymnasium's environment, whose pictures nobody sees."""
    env = original.CarRacing()
    env._render = lambda mode: np.zeros(0)
    return env


def drive(car: original.CarRacing, tiles: int = 5) -> np.ndarray:
    """Steering, gas and brake (3,) of somebody who sees the track: towards a tile so many ahead."""
    track, here = np.array(car.track)[:, 2:], np.array(car.car.hull.position)
    nearest = np.linalg.norm(track - here, axis=1).argmin()
    ahead = track[(nearest + tiles) % len(track)] - here
    turn = np.arctan2(ahead[1], ahead[0]) - car.car.hull.angle - np.pi / 2
    steering = np.clip(-2 * ((turn + np.pi) % (2 * np.pi) - np.pi), -1, 1)
    speed = np.linalg.norm(car.car.hull.linearVelocity)
    return np.array([steering, 0.4 * (speed < 45), 0.1 * (speed > 50)])
