"""CarRacing-v3 of Gymnasium: drive a lap, on another track in every episode. Solved: a mean return of 900.

Physics, rewards and tracks are Gymnasium's. The picture is drawn by `car.py`, and only where one is needed;
`stock` draws with Gymnasium's renderer. Neither zooms in during the first second.

Of Gymnasium's extra `box2d` only the package box2d is needed; `pygame-ce`, also in it, would overwrite
`pygame`, which other tasks draw with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces

from common.bounds import CountOrNone, Positive, Several, Share
from envs.car_racing.car import ENV_ID, FPS, STATES
from envs.car_racing.driver import Driver
from envs.gym_task import GymTask
from envs.gym_vector import BoxCodec, GymVectorEnv, beginning
from envs.interfaces import Codec, Episode, Infos, Metric, RawObservation
from envs.pixels import PixelCodec, PixelConfig
from envs.summary import RETURN
from envs.training import TrainingEnv

LAP = 0.95  # share of the tiles that makes a lap


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
    fps: ClassVar[int] = FPS
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

    def scripted_policy(self) -> Driver:
        return Driver()

    def summarize(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """What every task has, and `mean_progress`, the mean share of the track that was visited."""
        return super().summarize(episodes) | {
            "mean_progress": float(np.mean([episode.progress[-1] for episode in episodes]))
        }


TASK = CarRacing
