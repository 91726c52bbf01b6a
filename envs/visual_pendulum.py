"""Pendulum-v1 of Gymnasium, seen as pictures. Solved: a mean return of -200 or more.

Gymnasium's own picture also shows the torque, an arrow, which says what the last action was; ours shows the
rod alone. The physics is Gymnasium's to the bit, for all slots in one call.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.utils import seeding
from numba import njit

from common.bounds import Positive
from envs.gym_task import GymTask
from envs.gym_vector import BoxCodec, beginning
from envs.interfaces import Infos, RawObservation, Symmetry
from envs.pixels import PixelCodec, PixelConfig
from envs.training import TaskTrainingEnv

MAX_EPISODE_STEPS = 200  # as Gymnasium registers it
MAX_SPEED, MAX_TORQUE, STEP, GRAVITY = 8.0, 2.0, 0.05, 10.0  # rad/s, N m, s, m/s²; 1 kg on a rod of 1 m
START = np.array([np.pi, 1.0])  # rad and rad/s, bounds of the start states
STATES = spaces.Box(-np.array([1, 1, MAX_SPEED], np.float32), np.array([1, 1, MAX_SPEED], np.float32))
TORQUES = spaces.Box(-MAX_TORQUE, MAX_TORQUE, (1,), np.float32)
ROD_LENGTH, ROD_RADIUS = 0.42, 0.05  # shares of the picture's side
MIRROR = Symmetry(  # of pictures and torques
    observation_order=np.empty(0, np.int64),
    observation_signs=np.empty(0, np.float32),
    action_order=np.zeros(1, np.int64),
    action_signs=np.full(1, -1, np.float32),
)


class VisualPendulumVectorEnv:
    """`num_envs` pendulums, see `envs.interfaces.VectorEnv`.

    Args:
        num_envs: how many, n.
        image_size: side in pixels of the square pictures in the observations; 0 leaves them out.

    Observations:
        state (n, 3) float32: cosine and sine of the angle, 0 is up, and rad/s, as Pendulum-v1 returns them.
        pixels (n, side, side, 3) uint8 RGB: when asked for.
    """

    def __init__(self, num_envs: int, image_size: int = 0) -> None:
        self.num_envs = num_envs
        self.image_size = image_size
        parts: dict[str, spaces.Space] = {"state": STATES}
        if image_size:
            parts["pixels"] = spaces.Box(0, 255, (image_size, image_size, 3), np.uint8)
        self.single_observation_space = spaces.Dict(parts)
        self.single_action_space: spaces.Box = TORQUES
        self.active = np.zeros(num_envs, bool)
        self.watched = np.ones(num_envs, bool)  # not heeded, every picture is drawn
        self.steps = np.zeros(num_envs, np.int64)  # taken in the current episode
        self.angles, self.speeds = np.zeros((2, num_envs))  # rad, counter-clockwise from up; rad/s

    def reset(
        self, *, seed: Sequence[int] | np.ndarray, options: dict[str, Any] | None = None
    ) -> tuple[RawObservation, Infos]:
        mask = beginning(self.num_envs, options)
        for i in np.flatnonzero(mask):
            self.angles[i], self.speeds[i] = self._start(i, int(seed[i]))
        self.active |= mask
        self.steps[mask] = 0
        return self._observations(), {}

    def step(self, actions: np.ndarray) -> tuple[RawObservation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Turn by torques (n, 1) in N m, bounded to ±2."""
        rewards = np.zeros(self.num_envs)
        self._simulate(np.asarray(actions), self.active, rewards)
        self.steps += self.active
        truncated = self.active & (self.steps >= MAX_EPISODE_STEPS)
        self.active &= ~truncated
        return self._observations(), rewards, np.zeros(self.num_envs, bool), truncated, {}

    def frames(self, size: int, slots: np.ndarray) -> np.ndarray:
        pictures = np.empty((len(slots), size, size, 3), np.uint8)
        draw_rods(pictures, self.angles[slots])
        return pictures

    def _start(self, slot: int, seed: int) -> np.ndarray:
        """Angle and speed where Gymnasium's Pendulum-v1 begins with this seed."""
        return seeding.np_random(seed)[0].uniform(-START, START)

    def _simulate(self, actions: np.ndarray, active: np.ndarray, rewards: np.ndarray) -> None:
        """Move the active pendulums one step on, in Gymnasium's order of operations; write their rewards."""
        angles, speeds = self.angles, self.speeds
        torques = np.minimum(np.maximum(actions[:, 0], -MAX_TORQUE), MAX_TORQUE)
        off = (angles + np.pi) % (2 * np.pi) - np.pi  # from up
        rewards[active] = -(off**2 + 0.1 * speeds**2 + 0.001 * torques**2)[active]
        pushed = speeds + (3 * GRAVITY / 2 * np.sin(angles) + 3.0 * torques) * STEP
        np.copyto(speeds, np.minimum(np.maximum(pushed, -MAX_SPEED), MAX_SPEED), where=active)
        np.copyto(angles, angles + speeds * STEP, where=active)

    def _observations(self) -> RawObservation:
        state = np.stack([np.cos(self.angles), np.sin(self.angles), self.speeds], axis=1, dtype=np.float32)
        if not self.image_size:
            return {"state": state}
        return {"state": state, "pixels": self.frames(self.image_size, np.arange(self.num_envs))}


class StockPendulumVectorEnv(VisualPendulumVectorEnv):
    """The same of Gymnasium's Pendulum-v1, stepped one by one."""

    def __init__(self, num_envs: int, image_size: int = 0) -> None:
        super().__init__(num_envs, image_size)
        self.envs: list[Any] = [gymnasium.make("Pendulum-v1").unwrapped for _ in range(num_envs)]

    def _start(self, slot: int, seed: int) -> np.ndarray:
        self.envs[slot].reset(seed=seed)
        return self.envs[slot].state

    def _simulate(self, actions: np.ndarray, active: np.ndarray, rewards: np.ndarray) -> None:
        for i in np.flatnonzero(active):
            rewards[i] = self.envs[i].step(actions[i])[1]
            self.angles[i], self.speeds[i] = self.envs[i].state


@njit(cache=True, nogil=True)
def draw_rods(pictures, angles):
    """White rods with round ends on black, their edges smoothed by the distance to the rod.

    Args:
        pictures: (n, side, side, 3) uint8, written.
        angles: (n,) rad, counter-clockwise from up. An angle and its negative give mirrored pictures.
    """
    side = pictures.shape[1]
    center, length, radius = 0.5 * (side - 1), ROD_LENGTH * side, ROD_RADIUS * side
    inside, outside = (radius - 0.5) ** 2, (radius + 0.5) ** 2  # squared distances of full and of no rod
    for n in range(len(angles)):
        right, down = -math.sin(angles[n]), -math.cos(angles[n])  # of the rod, in the picture's directions
        for i in range(side):
            for j in range(side):
                x, y = j - center, i - center
                along = min(max(x * right + y * down, 0.0), length)
                squared = (x - along * right) ** 2 + (y - along * down) ** 2
                white = np.uint8(0)
                if squared <= inside:
                    white = np.uint8(255)
                elif squared < outside:
                    white = np.uint8(255.0 * (radius + 0.5 - math.sqrt(squared)) + 0.5)
                pictures[n, i, j, 0] = pictures[n, i, j, 1] = pictures[n, i, j, 2] = white


@dataclass(frozen=True)
class VisualPendulum(GymTask):
    """Pendulum-v1 from pictures, as the agent meets it in training."""

    name: ClassVar[str] = "VisualPendulum"
    sentence: ClassVar[str] = "Swing the pendulum up and hold it upright."
    fps: ClassVar[int] = 20
    lerobot_names: ClassVar[dict[str, str]] = {"observation.state": "state", "observation.image": "pixels"}

    reward_scale: Positive = 0.1  # multiplies the reward, which is -16 to 0 per step
    pixels: PixelConfig = field(default_factory=PixelConfig)  # what the network sees
    mirror: bool = False  # half of each batch is mirrored: pictures flipped, torques negated

    def vector_env(self, num_envs: int, image_size: int = 0, stock: bool = False) -> VisualPendulumVectorEnv:
        """`stock`: Gymnasium's physics, one by one; the picture is ours in both."""
        return (StockPendulumVectorEnv if stock else VisualPendulumVectorEnv)(num_envs, image_size)

    def codec(self, num_envs: int) -> PixelCodec:
        return PixelCodec(num_envs, self.pixels, BoxCodec(STATES, TORQUES))

    def training_env(self, seed: int, gamma: float, image_size: int = 0) -> TaskTrainingEnv:
        env = self.vector_env(self.num_envs, self.pixels.size)
        symmetry = MIRROR if self.mirror else None
        return TaskTrainingEnv(self, env, seed, gamma, reward_scale=self.reward_scale, symmetry=symmetry)


TASK = VisualPendulum
