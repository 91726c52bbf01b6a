"""CarRacing-v3's car on its track, drawn by `envs/polygons.py` instead of Gymnasium's renderer.

Gymnasium's picture takes 98 % of a step's time. This one leaves the score out.
"""

import math
from collections.abc import Sequence
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled

from common.errors import UserError
from envs.polygons import average, paint

try:
    from gymnasium.envs.box2d import car_dynamics as dynamics
    from gymnasium.envs.box2d import car_racing as original
except DependencyNotInstalled:
    raise UserError(
        "task car_racing needs Box2D, which is not installed: pip install --no-deps box2d==2.3.10"
    ) from None

ENV_ID = "UndrawnCarRacing-v3"
MAX_EPISODE_STEPS = 1_000  # 20 s, as Gymnasium registers it
FPS = original.FPS
WINDOW = np.array([original.WINDOW_W, original.WINDOW_H])  # px of Gymnasium's window
CAR_PLACE = np.array([0.5, 0.75])  # of the car in the picture, shares from the left and from the top
ZOOM = original.SCALE * original.ZOOM  # px of the window per unit of length
DARKER = np.uint8(2)  # of 255: what pygame takes away where it scales a picture
LEAST_POINTS = 256  # on the side of a canvas, from which a picture is averaged
STATES = spaces.Box(-np.inf, np.inf, (7,), np.float32)
MOST_MISSED = 10  # tiles in a row that count: whoever is lost may go on where the road is near
LATE_TILES = 3  # behind the foremost one that was visited, which a wheel may still touch


def _padded(*polygons: Sequence[tuple[float, float]]) -> np.ndarray:
    """(k, V, 2) where V is the most corners that one has; the others repeat their last."""
    most = max(map(len, polygons))
    return np.array([[*polygon, *[polygon[-1]] * (most - len(polygon))] for polygon in polygons], float)


_G, _F = original.GRASS_DIM, original.PLAYFIELD
FIELD = _padded(  # (401, 4, 2) corners of the field and of the lighter squares on it, in units of the track
    [(_F, _F), (_F, -_F), (-_F, -_F), (-_F, _F)],
    *[
        [(x + _G, y), (x, y), (x, y + _G), (x + _G, y + _G)]
        for x in _G * np.arange(-20, 20, 2)
        for y in _G * np.arange(-20, 20, 2)
    ],
)
HULL = dynamics.SIZE * _padded(  # (4, 8, 2) about the centre of the car
    dynamics.HULL_POLY1, dynamics.HULL_POLY2, dynamics.HULL_POLY3, dynamics.HULL_POLY4
)
_W, _R = dynamics.SIZE * dynamics.WHEEL_W, dynamics.SIZE * dynamics.WHEEL_R
WHEEL = _padded([(-_W, _R), (_W, _R), (_W, -_R), (-_W, -_R)])  # (1, 4, 2) about its own
RED, BLACK, GREY = (204, 0, 0), dynamics.WHEEL_COLOR, dynamics.WHEEL_WHITE
BAR = np.array(  # left, lower, right and upper edge in 40ths of the window, and colour: first the bar, then
    [(0, 0, 40, 5, 0, 0, 0), (5, 1, 6, 1, 255, 255, 255)]  # speed,
    + [(7 + i, 1, 8 + i, 1, 0 if i < 2 else 51, 0, 255) for i in range(4)]  # wheels,
    + [(20, 2, 20, 4, 0, 255, 0), (30, 2, 30, 4, 255, 0, 0)],  # steering, and the turning of the car
    float,
)


class Car(original.CarRacing):
    """CarRacing that returns numbers and draws a picture when it is asked for.

    Observation (7,) float32, what the bar under the picture shows: speed in units of length per second, rad/s
    of the four wheels, rad of the steering, rad/s of the car.
    """

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.observation_space = STATES
        self.missed = 0  # tiles that were passed by, at most `MOST_MISSED` in a row
        self._foremost = 0  # index of the foremost tile that was visited
        self._judged = 0  # tiles up to this index were visited or passed by
        self._stretch = 0  # of the latest of these, how many in a row were passed by

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        self.missed = self._foremost = self._judged = self._stretch = 0
        observation, info = super().reset(seed=seed, options=options)
        self.t = 1.0  # s, which only the zoom depends on
        return observation, info

    def put(self, share: float, aside: float, turn: float) -> np.ndarray:
        """After a reset, have the car stand elsewhere; returns its observation.

        Args:
            share: of the track that counts as visited; the car stands at its end.
            aside: units of length to the right of the road's middle.
            turn: rad to the left of the road's direction.
        """
        tiles = self.road or []
        self._foremost = self._judged = int(share * len(tiles))
        for tile in tiles[: self._foremost + 1]:
            self.tile_visited_count += not tile.road_visited
            tile.road_visited = True
            tile.color[:] = self.road_color
        _, angle, x, y = self.track[self._foremost]
        self._car.destroy()
        self.car = dynamics.Car(
            self.world, angle + turn, x + aside * math.cos(angle), y + aside * math.sin(angle)
        )
        nothing: Any = None
        super().step(nothing)  # lets the wheels settle, as in a reset
        self.prev_reward = self.reward  # nothing of this was driven
        return self._numbers()

    def step(self, action: Any) -> Any:
        """Success is a lap."""
        observation, reward, terminated, truncated, info = super().step(action)
        success = {"is_success": info.get("lap_finished", False)}
        self._count_missed()
        return observation, reward, terminated, truncated, info | success

    def _count_missed(self) -> None:
        """Tiles are in the order of the lap. What is further on than half of them lies behind the car."""
        tiles = self.road or []
        ahead = tiles[self._foremost + 1 : self._foremost + 1 + len(tiles) // 2]
        self._foremost += max((i for i, tile in enumerate(ahead, 1) if tile.road_visited), default=0)
        end = max(self._foremost - LATE_TILES, self._judged)
        if self._foremost > len(tiles) * 3 // 4 and self._is_past_the_line():
            end = len(tiles) - 1
        for tile in tiles[self._judged + 1 : end + 1]:
            self._stretch = 0 if tile.road_visited else self._stretch + 1
            self.missed += 0 < self._stretch <= MOST_MISSED
        self._judged = end

    def _is_past_the_line(self) -> bool:
        """Whether a wheel touches the road a little further on than where the lap begins."""
        touched = (tile.idx for wheel in self._car.wheels for tile in wheel.tiles)
        return any(LATE_TILES <= index < len(self.track) // 4 for index in touched)

    def picture(self, size: int) -> np.ndarray:
        """(size, size, 3) uint8 RGB: Gymnasium's window, wider than high, pressed into a square."""
        points = -(-LEAST_POINTS // size)  # per pixel
        canvas = np.zeros((size * points, size * points), np.uint32)
        scale = size * points / WINDOW
        matrix, offset = self._view(scale)
        paint(canvas, self._ground, self._colours, matrix, offset)
        for corners, colour in self._car_parts():
            paint(canvas, corners, np.full((len(corners), 3), colour, float), matrix, offset)
        paint(canvas, *self._bar(), np.diag(scale), np.zeros(2))
        drawn = np.empty((size, size, 3), np.uint8)
        average(canvas, drawn)
        return np.maximum(drawn, DARKER) - DARKER

    def stock_picture(self, size: int) -> np.ndarray:
        """The same by Gymnasium, of 96 pixels a side and then scaled."""
        drawn: Any = super()._render("state_pixels")
        if size == len(drawn):
            return drawn
        return cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)

    @property
    def place(self) -> tuple[float, float]:
        """Of the car, in units of length."""
        return tuple(self._car.hull.position)

    @property
    def _car(self) -> dynamics.Car:
        assert self.car is not None, "there is a car after the first reset"
        return self.car

    def _render(self, mode: str) -> Any:
        """Gymnasium's `step` asks for its observation here."""
        return self._numbers() if mode == "state_pixels" else super()._render(mode)

    def _numbers(self) -> np.ndarray:
        hull, wheels = self._car.hull, self._car.wheels
        speed = math.hypot(*hull.linearVelocity)
        turning = [wheel.omega for wheel in wheels]
        return np.array([speed, *turning, wheels[0].joint.angle, hull.angularVelocity], np.float32)

    def _create_track(self) -> bool:
        """Keep the ground as arrays; a tile's colour, which a visit changes, becomes a row of one."""
        if not super()._create_track():
            return False
        road = np.array([corners for corners, _ in self.road_poly])  # (k, 4, 2) tiles and borders
        self._ground = np.concatenate([FIELD, road])
        grass = np.repeat([self.bg_color, self.grass_color], (1, len(FIELD) - 1), axis=0)
        self._colours = np.concatenate([grass, [colour for _, colour in self.road_poly]]).astype(float)
        tiles = iter(self.road or ())
        for i, colour in enumerate(self._colours[len(FIELD) :]):  # rows, which stay views
            corners, before = self.road_poly[i]
            if isinstance(before, np.ndarray):  # a tile's, not a border's
                next(tiles).color = colour
                self.road_poly[i] = (corners, colour)
        return True

    def _view(self, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """From the track to points of the canvas: the car a quarter from below, its front up."""
        flipped = scale * [1, -1]
        matrix = ZOOM * flipped[:, None] * _rotation(-self._car.hull.angle)
        return matrix, scale * WINDOW * CAR_PLACE - matrix @ np.array(self._car.hull.position)

    def _car_parts(self) -> list[tuple[np.ndarray, tuple[int, int, int]]]:
        """Corners (k, V, 2) on the track and colours: wheels, how far they have turned, hull."""
        wheels, hull = self._car.wheels, self._car.hull
        treads = np.stack([_tread(wheel.phase) for wheel in wheels])
        turned = np.stack([_rotation(wheel.angle) for wheel in wheels])
        places = np.array([wheel.position for wheel in wheels])[:, None]
        return [
            (WHEEL @ turned.mT + places, BLACK),
            (treads @ turned.mT + places, GREY),
            (HULL @ _rotation(hull.angle).T + np.array(hull.position), RED),
        ]

    def _bar(self) -> tuple[np.ndarray, np.ndarray]:
        """Corners (8, 4, 2) in pixels of the window, and colours (8, 3), of the bar and its indicators."""
        numbers, boxes = self._numbers(), BAR.copy()
        boxes[1:6, 3] += [0.02, 0.01, 0.01, 0.01, 0.01] * numbers[:5]
        boxes[6:, 2] += [-10.0, -0.8] * numbers[5:]
        corners = np.stack([boxes[:, pair] for pair in ([0, 1], [2, 1], [2, 3], [0, 3])], axis=1)
        return np.array([0, WINDOW[1]]) + corners * WINDOW / 40 * [1, -1], boxes[:, 4:]


def _rotation(angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _tread(phase: float) -> np.ndarray:
    """The light part (4, 2) of a wheel that has turned by so many rad; without height where underneath."""
    edges = []
    for angle in (phase, phase + 1.2):
        height = math.cos(angle)
        edges.append(math.copysign(_R, height) if math.sin(angle) > 0 else _R * height)
    if math.sin(phase) > 0 and math.sin(phase + 1.2) > 0:
        edges = [0.0, 0.0]
    return np.array([(-_W, edges[0]), (_W, edges[0]), (_W, edges[1]), (-_W, edges[1])])


# Without Gymnasium's check of observations, which are numbers here.
gymnasium.register(ENV_ID, f"{__name__}:Car", max_episode_steps=MAX_EPISODE_STEPS, disable_env_checker=True)
