"""CarRacing-v3 of Gymnasium: drive a lap, on another track in every episode. Solved: a mean return of 900.

Physics, rewards and tracks are Gymnasium's. The picture is drawn by `envs/polygons.py`, and only where one is
needed, because Gymnasium's own takes 98 % of a step's time. It leaves the score out, and differs by 2 of 255,
by which pygame darkens what it scales. `stock` draws with Gymnasium's renderer. Neither zooms in
during the first second.

Of Gymnasium's extra `box2d` only the package box2d is needed; `pygame-ce`, also in it, would overwrite
`pygame`, which other tasks draw with.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.error import DependencyNotInstalled

from common.bounds import CountOrNone, Positive, Several, Share
from common.errors import UserError
from envs.gym_task import GymTask
from envs.gym_vector import BoxCodec, GymVectorEnv, beginning
from envs.interfaces import Codec, Episode, Infos, Metric, RawObservation
from envs.pixels import PixelCodec, PixelConfig
from envs.polygons import average, paint
from envs.summary import RETURN
from envs.training import TrainingEnv

try:
    from gymnasium.envs.box2d import car_dynamics as dynamics
    from gymnasium.envs.box2d import car_racing as original
except DependencyNotInstalled:
    raise UserError(
        "task car_racing needs Box2D, which is not installed: pip install --no-deps box2d==2.3.10"
    ) from None

MAX_EPISODE_STEPS = 1_000  # 20 s, as Gymnasium registers it
LAP = 0.95  # share of the tiles that makes a lap
WINDOW = np.array([original.WINDOW_W, original.WINDOW_H])  # px of Gymnasium's window
LEAST_POINTS = 256  # on the side of a canvas, from which a picture is averaged
STATES = spaces.Box(-np.inf, np.inf, (7,), np.float32)


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

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[Any, dict]:
        observation, info = super().reset(seed=seed, options=options)
        self.t = 1.0  # s, which only the zoom depends on
        return observation, info

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
        return drawn

    def stock_picture(self, size: int) -> np.ndarray:
        """The same by Gymnasium, of 96 pixels a side and then scaled."""
        drawn: Any = super()._render("state_pixels")
        if size == len(drawn):
            return drawn
        return cv2.resize(drawn, (size, size), interpolation=cv2.INTER_AREA)

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
        zoom = original.SCALE * (0.1 * max(1 - self.t, 0) + original.ZOOM * min(self.t, 1))
        flipped = scale * [1, -1]
        matrix = zoom * flipped[:, None] * _rotation(-self._car.hull.angle)
        return matrix, scale * WINDOW * [0.5, 0.75] - matrix @ np.array(self._car.hull.position)

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


class CarRacingVectorEnv(GymVectorEnv):
    """`num_envs` tracks, stepped one by one.

    Args:
        num_envs: how many, n.
        image_size: side in pixels of the square pictures in the observations; 0 leaves them out.
        stock: pictures are drawn by Gymnasium.
        patience: environment steps without a new tile after which an episode is truncated; 0: never.

    Observations:
        state (n, 7) float32: see `Car`.
        pixels (n, side, side, 3) uint8 RGB: when asked for; drawn where `watched` says so.

    Infos: `progress`, the share of the track's tiles that were visited.
    """

    def __init__(self, num_envs: int, image_size: int = 0, stock: bool = False, patience: int = 0) -> None:
        super().__init__(ENV_ID, num_envs)
        self.image_size, self.stock, self.patience = image_size, stock, patience
        self.cars: list[Any] = [env.unwrapped for env in self.envs]
        self.in_vain = np.zeros(num_envs, np.int64)  # steps since the latest new tile
        self.pictures = np.zeros((num_envs, image_size, image_size, 3), np.uint8)
        if image_size:
            pictures = spaces.Box(0, 255, self.pictures.shape[1:], np.uint8)
            self.single_observation_space = spaces.Dict({"state": self.state_space, "pixels": pictures})

    def reset(
        self, *, seed: Sequence[int] | np.ndarray, options: dict[str, Any] | None = None
    ) -> tuple[RawObservation, Infos]:
        observations, infos = super().reset(seed=seed, options=options)
        mask = beginning(self.num_envs, options)
        self.in_vain[mask] = 0
        return self._with_pixels(observations, mask), infos

    def step(self, actions: np.ndarray) -> tuple[RawObservation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Drive with actions (n, 3): steering from -1, left, to 1; gas and brake from 0 to 1."""
        active, before = self.active.copy(), self._infos(self.active)["progress"]
        observations, rewards, terminated, truncated, infos = super().step(actions)
        self.in_vain = np.where(active & (infos["progress"] == before), self.in_vain + 1, 0)
        if self.patience:
            truncated |= self.in_vain >= self.patience
        truncated &= ~terminated
        self.active &= ~truncated
        drawn = active & (self.watched | terminated | truncated)
        return self._with_pixels(observations, drawn), rewards, terminated, truncated, infos

    def frames(self, size: int, slots: np.ndarray) -> np.ndarray:
        """Pictures (len(slots), size, size, 3) uint8 RGB; of Gymnasium's renderer, 3 to 2 on black."""
        if self.stock:
            return super().frames(size, slots)
        return np.stack([self.cars[i].picture(size) for i in slots])

    def _with_pixels(self, observations: RawObservation, drawn: np.ndarray) -> RawObservation:
        if not self.image_size:
            return observations
        for i in np.flatnonzero(drawn):
            car = self.cars[i]
            self.pictures[i] = (car.stock_picture if self.stock else car.picture)(self.image_size)
        return observations | {"pixels": self.pictures.copy()}

    def _infos(self, success: np.ndarray) -> Infos:
        """No success; before an environment's first episode there is no road."""
        shares = [car.tile_visited_count / len(car.track) if car.road else 0.0 for car in self.cars]
        return {"progress": np.array(shares)}


class PedalCodec(BoxCodec):
    """Two numbers drive: steering, and gas above zero or brake below it on one axis."""

    def __init__(self, limits: np.ndarray) -> None:
        super().__init__(STATES, spaces.Box(np.array([-1, -1], np.float32), np.ones(2, np.float32)))
        self.limits = limits

    def decode(self, actions: np.ndarray, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        steering, pedals = actions.T
        return self.limits * np.stack([steering, np.maximum(pedals, 0), np.maximum(-pedals, 0)], axis=1)

    def encode_actions(self, actions: np.ndarray, raw: RawObservation) -> np.ndarray:
        """Of gas and brake at once, which this codec cannot do, the difference."""
        steering, gas, brake = (actions / np.where(self.limits > 0, self.limits, 1)).T
        return np.stack([steering, gas - brake], axis=1)


@dataclass(frozen=True)
class CarRacing(GymTask):
    """CarRacing-v3 from pictures, as the agent meets it in training."""

    name: ClassVar[str] = "CarRacing-v3"
    sentence: ClassVar[str] = "Drive a lap on the road."
    fps: ClassVar[int] = original.FPS
    metrics: ClassVar[tuple[Metric, ...]] = (
        RETURN,
        Metric("mean_progress", "track visited", ".1f", "%", scale=100.0),
    )
    progress_name: ClassVar[str] = "visited"
    progress_goal: ClassVar[float] = LAP
    highlights: ClassVar[tuple[str, ...]] = ("axes", "action_repeat", "patience")
    packages: ClassVar[tuple[str, ...]] = ("gymnasium", "box2d", "pygame")
    lerobot_names: ClassVar[dict[str, str]] = {"observation.state": "state", "observation.image": "pixels"}

    action_repeat: Several = 4  # environment steps per decision; only the last is drawn
    reward_scale: Positive = 0.1  # multiplies the reward, which is 1,000 for the track and -0.1 per step
    pixels: PixelConfig = field(default_factory=lambda: PixelConfig(size=64))  # what the network sees
    axes: Literal[2, 3] = 2  # of the network's actions: 2, gas and brake share one; 3, each has its own
    steering: Share = 1.0  # bound of the steering, to either side
    gas: Share = 1.0  # bound of the gas
    brake: Share = 1.0  # bound of the brake; from 0.9 on the wheels lock
    patience: CountOrNone = 100  # steps without a new tile that truncate an episode of training; 0: never

    def vector_env(self, num_envs: int, image_size: int = 0, stock: bool = False) -> CarRacingVectorEnv:
        return CarRacingVectorEnv(num_envs, image_size, stock)

    def codec(self, num_envs: int) -> PixelCodec:
        limits = np.array([self.steering, self.gas, self.brake], np.float32)
        pedals: Codec = PedalCodec(limits)
        if self.axes == 3:
            pedals = BoxCodec(STATES, spaces.Box(limits * np.array([-1, 0, 0], np.float32), limits))
        return PixelCodec(num_envs, self.pixels, pedals)

    def training_env(self, seed: int, gamma: float) -> TrainingEnv:
        env = CarRacingVectorEnv(self.num_envs, self.pixels.size, patience=self.patience)
        return TrainingEnv(self, env, seed, gamma, reward_scale=self.reward_scale)

    def summarize(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """What every task has, and `mean_progress`, the mean share of the track that was visited."""
        return super().summarize(episodes) | {
            "mean_progress": float(np.mean([episode.progress[-1] for episode in episodes]))
        }


ENV_ID = "UndrawnCarRacing-v3"  # without Gymnasium's check of observations, which are numbers here
gymnasium.register(ENV_ID, f"{__name__}:Car", max_episode_steps=MAX_EPISODE_STEPS, disable_env_checker=True)
TASK = CarRacing
