"""CarRacing-v3 of Gymnasium: drive a lap, on another track in every episode. Solved: a mean return of 900.

A lap is all tiles of the track. Gymnasium's rule of 95 % never applies: it asks for a first visit of tile 0,
on which the car begins.

Of Gymnasium's extra `box2d` only the package box2d is needed; `pygame-ce`, also in it, would overwrite
`pygame`, which other tasks draw with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
from gymnasium import spaces

from common.bounds import CountOrZero, NotNegative, Positive, Several, Share
from envs.car_racing.car import FPS, STATES
from envs.car_racing.driver import Driver
from envs.car_racing.recording import CarRacingRecording
from envs.car_racing.vector import CarRacingVectorEnv
from envs.gym_task import GymTask
from envs.gym_vector import BoxCodec, Success
from envs.interfaces import Codec, Episode, Metric, Motion, RawObservation, Symmetry
from envs.pixels import SAME_TONES, PixelCodec, PixelConfig
from envs.summary import RETURN, SUCCESS_RATE
from envs.training import TaskTrainingEnv, own_start

OFF_ROAD = 12.0  # units of length, sigma of a start's distance from the road's middle; its edge is at 6.7


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


def road_tones() -> np.ndarray:
    """What a network sees of each luminance, (256,) uint8: differences within the road are tenfold.

    Gymnasium makes tiles of the road lighter by 0, 1 or 2 % of white, in turns, until they are visited. So
    a picture says which way the lap goes and what was missed, but not to a network that hardly sees it.
    """
    return np.interp(np.arange(256), [0, 97, 108, 255], [0, 50, 160, 255]).round().astype(np.uint8)


def mirror_image(axes: int) -> Symmetry:
    """Of pictures and of actions with so many axes: what steers left steers right.

    The bar below the road is flipped with it, and has its numbers in other places then.
    """
    return Symmetry(
        observation_order=np.empty(0, np.int64),
        observation_signs=np.empty(0, np.float32),
        action_order=np.arange(axes),
        action_signs=np.array([-1, 1, 1], np.float32)[:axes],
    )


@dataclass(frozen=True)
class CarRacing(GymTask):
    """CarRacing-v3 from pictures, as the agent meets it in training."""

    name: ClassVar[str] = "CarRacing-v3"
    sentence: ClassVar[str] = "Drive a lap on the road."
    fps: ClassVar[int] = FPS
    success: ClassVar[Success] = "info"
    metrics: ClassVar[tuple[Metric, ...]] = (
        RETURN,
        SUCCESS_RATE,
        Metric("mean_progress", "track visited", ".1f", "%", scale=100.0),
    )
    progress_name: ClassVar[str] = "visited"
    # A driver that has left the road may brake until time is up.
    must_move: ClassVar[Motion | None] = Motion("place", least=0.5)
    highlights: ClassVar[tuple[str, ...]] = (
        "road_contrast",
        "axes",
        "gas",
        "brake",
        "action_repeat",
        "off_road_starts",
        "lap_reward",
        "missed_penalty",
        "patience",
    )
    action_settings: ClassVar[tuple[str, ...]] = ("axes", "steering", "gas", "brake")
    IF_ABSENT: ClassVar = {
        "mirror": False,
        "missed_penalty": 0.0,
        "road_contrast": False,
        "off_road_starts": 0.0,
        "lap_reward": 0.0,
    }
    packages: ClassVar[tuple[str, ...]] = ("gymnasium", "box2d", "pygame")
    recording: ClassVar[CarRacingRecording] = CarRacingRecording()
    lerobot_names: ClassVar[dict[str, str]] = {"observation.state": "state", "observation.image": "pixels"}

    action_repeat: Several = 4  # environment steps per decision; only the last is drawn
    reward_scale: Positive = 0.1  # multiplies the reward, which is 1,000 for the track and -0.1 per step
    pixels: PixelConfig = field(default_factory=lambda: PixelConfig(size=64))  # what the network sees
    road_contrast: bool = False  # which tiles were visited is easily seen, see `road_tones`
    axes: Literal[2, 3] = 2  # of the network's actions: 2, gas and brake share one; 3, each has its own
    steering: Share = 1.0  # bound of the steering, to either side
    gas: Share = 1.0  # bound of the gas
    brake: Share = 1.0  # bound of the brake; from 0.9 on the wheels lock
    mirror: bool = False  # half of each batch is mirrored: pictures flipped, steering negated
    missed_penalty: NotNegative = 0.0  # in training, for each tile that is passed by; a visit pays some 3
    lap_reward: NotNegative = 0.0  # in training, for a lap, about the value of driving on, which it ends
    patience: CountOrZero = 100  # steps without a new tile that truncate an episode of training; 0: never
    off_road_starts: Share = 0.0  # share of training's episodes that start at rest on or beside the road

    def validate(self) -> None:
        super().validate()
        if self.road_contrast and not self.pixels.grey:
            raise ValueError("road_contrast must be false where pixels.grey is false")

    def vector_env(self, num_envs: int, image_size: int = 0, stock: bool = False) -> CarRacingVectorEnv:
        return CarRacingVectorEnv(num_envs, image_size, stock)

    def codec(self, num_envs: int) -> PixelCodec:
        limits = np.array([self.steering, self.gas, self.brake], np.float32)
        pedals: Codec = PedalCodec(limits)
        if self.axes == 3:
            pedals = BoxCodec(STATES, spaces.Box(limits * np.array([-1, 0, 0], np.float32), limits))
        tones = road_tones() if self.road_contrast else SAME_TONES
        return PixelCodec(num_envs, self.pixels, pedals, tones=tones)

    def training_env(self, seed: int, gamma: float, image_size: int = 0) -> TaskTrainingEnv:
        env = CarRacingVectorEnv(self.num_envs, self.pixels.size, patience=self.patience)

        def reward(
            before: RawObservation, after: RawObservation, stock: np.ndarray, succeeded: np.ndarray
        ) -> np.ndarray:
            reward = stock + self.lap_reward * succeeded
            if "missed" not in after:  # recorded laps, which count as driven over all tiles
                return reward
            return reward - self.missed_penalty * (after["missed"] - before["missed"])

        scale, symmetry = self.reward_scale, mirror_image(self.axes) if self.mirror else None
        start = self._off_road_start if self.off_road_starts else own_start
        return TaskTrainingEnv(self, env, seed, gamma, reward, scale, start, symmetry)

    def _off_road_start(self, rng: np.random.Generator) -> np.ndarray:
        """A start state (3,), see `Car.put`; NaN for the seed's own."""
        if not rng.random() < self.off_road_starts:
            return np.full(3, np.nan)
        return np.array([rng.uniform(0, 0.9), rng.normal(0, OFF_ROAD), rng.uniform(-np.pi, np.pi)])

    def scripted_policy(self) -> Driver:
        return Driver()

    def summarize(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """What every task has, and `mean_progress`, the mean share of the track that was visited."""
        return super().summarize(episodes) | {
            "mean_progress": float(np.mean([episode.progress[-1] for episode in episodes]))
        }

    def rank(self, summary: dict[str, Any]) -> tuple[float, ...]:
        """A higher return, by which the task counts as solved."""
        return (summary["avg_sum_reward"],)


TASK = CarRacing
