"""A driver for CarRacing that is written by hand, and laps every track that it was tried on."""

from collections.abc import Sequence

import cv2
import numpy as np

from envs.car_racing.car import CAR_PLACE, WINDOW, ZOOM, dynamics
from envs.interfaces import RawObservation

SIDE = 96  # pixels of its picture
# Of the arcs that it may take, per unit of length; right is positive.
CURVATURES = np.linspace(-0.12, 0.12, 41)
DISTANCES = np.arange(3.0, 34.0)  # units of length along an arc, from before the car to the picture's edge
LARGEST_ANGLE = 0.4  # rad of the front wheels
WHEELBASE = dynamics.SIZE * (dynamics.WHEELPOS[0][1] - dynamics.WHEELPOS[2][1])  # units of length
CHOOSINESS = 8.0  # how much more the longest arcs count
GREENER = 40  # of 255, by which grass is greener than red
MARGIN = np.ones((5, 5), np.uint8)  # pixels by which the grass seems wider, for the width of the car
TOP_SPEED = 70.0  # units of length per second
SIDEWAYS = 200.0  # largest acceleration in a bend, units of length per second squared


class Driver:
    """Follows the mean of the arcs ahead, of which the longest on the road count most.

    It sees the picture and the speed. It is slower where the road ahead is short, and in bends.
    """

    n_action_steps = 1
    image_size = SIDE
    history = 1

    def __init__(self) -> None:
        self.x, self.y, self.outside = _arcs()

    def seed_slots(self, seeds: Sequence[int]) -> None:
        pass

    def reset(self, slots: np.ndarray) -> None:
        pass

    def act(self, observations: RawObservation) -> np.ndarray:
        free = self.free_lengths(observations["pixels"])
        longest = free.max(axis=1, keepdims=True)
        weights = np.exp(CHOOSINESS * (free / longest - 1.0))
        curvature = (weights @ CURVATURES) / weights.sum(axis=1)
        bend_speed = np.sqrt(SIDEWAYS / np.maximum(np.abs(curvature), 1e-3))
        wanted = np.minimum(np.minimum(TOP_SPEED, 5.0 + 1.9 * longest[:, 0]), bend_speed)
        faster = wanted - observations["state"][:, 0]
        steering = np.clip(np.arctan(WHEELBASE * curvature) / LARGEST_ANGLE, -1.0, 1.0)
        gas = np.clip(0.1 * faster, 0.0, 1.0) * (1.0 - 0.8 * np.abs(steering))
        brake = np.clip(-0.05 * (faster + 2.0), 0.0, 0.6)
        return np.stack([steering, gas, brake], axis=1)

    def free_lengths(self, pictures: np.ndarray) -> np.ndarray:
        """How far each arc (n, arcs) stays on the road, of pictures (n, SIDE, SIDE, 3) uint8 RGB."""
        red, green = pictures[..., 0].astype(int), pictures[..., 1]
        grass = np.stack([cv2.dilate(each.astype(np.uint8), MARGIN) for each in green - red > GREENER])
        off = self.outside | (grass[:, self.y, self.x] > 0)
        off = np.concatenate([off, np.ones_like(off[..., :1])], axis=-1)
        return np.array([0.1, *DISTANCES])[off.argmax(axis=-1)]


def _arcs() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Columns and rows (arcs, distances) int of the picture, and whether they would be outside of it."""
    turned = CURVATURES[:, None] * DISTANCES
    aside = DISTANCES * np.sinc(turned / (2 * np.pi)) * np.sin(turned / 2)
    ahead = DISTANCES * np.sinc(turned / np.pi)
    right, down = CAR_PLACE * SIDE
    pixels_x, pixels_y = ZOOM * SIDE / WINDOW  # per unit of length
    x, y = np.floor([right + pixels_x * aside, down - pixels_y * ahead]).astype(int)
    outside = (x < 0) | (x >= SIDE) | (y < 0)
    return np.clip(x, 0, SIDE - 1), np.clip(y, 0, SIDE - 1), outside
