"""Several of Gymnasium's CarRacing-v3.

Physics, rewards and tracks are Gymnasium's. The picture is drawn by `car.py`, and only where one is needed;
`stock` draws with Gymnasium's renderer. Neither zooms in during the first second.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from envs.car_racing.car import ENV_ID
from envs.gym_vector import GymVectorEnv, beginning
from envs.interfaces import Infos, RawObservation

MISSED_SPACE = spaces.Box(0.0, np.inf, (), np.float32)
PLACE_SPACE = spaces.Box(-np.inf, np.inf, (2,), np.float32)


class CarRacingVectorEnv(GymVectorEnv):
    """`num_envs` tracks, stepped one by one.

    Args:
        num_envs: how many, n.
        image_size: side in pixels of the square pictures in the observations; 0 leaves them out.
        stock: pictures are drawn by Gymnasium.
        patience: environment steps without a new tile after which an episode is truncated; 0: never.

    Observations:
        state (n, 7) float32: see `Car`.
        place (n, 2) float32: of the car, in units of length; it is some 5 long.
        missed (n,) float32: tiles that were passed by, see `Car.missed`.
        pixels (n, side, side, 3) uint8 RGB: when asked for; drawn where `watched` says so.

    Start states (n, 3) float, see `Car.put`, are for training: where patience is limited, such an episode has
    twice as much at first.

    Infos: `progress`, the share of the track's tiles that were visited, and `is_success`, a lap.
    """

    def __init__(self, num_envs: int, image_size: int = 0, stock: bool = False, patience: int = 0) -> None:
        super().__init__(ENV_ID, num_envs, success="info")
        self.image_size, self.stock, self.patience = image_size, stock, patience
        self.cars: list[Any] = [env.unwrapped for env in self.envs]
        self.in_vain = np.zeros(num_envs, np.int64)  # steps since the latest new tile
        self.pixels = np.zeros((num_envs, image_size, image_size, 3), np.uint8)
        parts: dict[str, spaces.Space] = {
            "state": self.state_space,
            "place": PLACE_SPACE,
            "missed": MISSED_SPACE,
        }
        if image_size:
            parts["pixels"] = spaces.Box(0, 255, self.pixels.shape[1:], np.uint8)
        self.single_observation_space = spaces.Dict(parts)

    def reset(
        self, *, seed: Sequence[int] | np.ndarray, options: dict[str, Any] | None = None
    ) -> tuple[RawObservation, Infos]:
        others = dict(options or {})
        states = np.broadcast_to(others.pop("states", np.nan), (self.num_envs, 3))
        super().reset(seed=seed, options=others)
        mask = beginning(self.num_envs, others)
        self.in_vain[mask] = 0
        for i in np.flatnonzero(mask & ~np.isnan(states).any(axis=1)):
            self._states[i] = self.cars[i].put(*states[i])
            self.in_vain[i] = -self.patience
        infos = self._infos(np.zeros(self.num_envs, bool))
        return self._with_own_parts({"state": self._states.copy()}, mask), infos

    def step(self, actions: np.ndarray) -> tuple[RawObservation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Drive with actions (n, 3): steering from -1, left, to 1; gas and brake from 0 to 1."""
        active, before = self.active.copy(), self.progress()
        observations, rewards, terminated, truncated, infos = super().step(actions)
        self.in_vain[active & (infos["progress"] == before)] += 1
        self.in_vain[active & (infos["progress"] != before)] = 0
        if self.patience:
            truncated |= active & (self.in_vain >= self.patience)
        truncated &= ~terminated
        self.active &= ~truncated
        drawn = active & (self.watched | terminated | truncated)
        return self._with_own_parts(observations, drawn), rewards, terminated, truncated, infos

    def frames(self, size: int, slots: np.ndarray) -> np.ndarray:
        """Pictures (len(slots), size, size, 3) uint8 RGB; of Gymnasium's renderer, 3 to 2 on white."""
        if self.stock:
            return super().frames(size, slots)
        return np.stack([self.cars[i].picture(size) for i in slots])

    def _with_own_parts(self, observations: RawObservation, drawn: np.ndarray) -> RawObservation:
        places = [car.place if car.road else (0.0, 0.0) for car in self.cars]
        observations = observations | {
            "place": np.array(places, np.float32),
            "missed": np.array([car.missed for car in self.cars], np.float32),
        }
        if not self.image_size:
            return observations
        for i in np.flatnonzero(drawn):
            car = self.cars[i]
            self.pixels[i] = (car.stock_picture if self.stock else car.picture)(self.image_size)
        return observations | {"pixels": self.pixels.copy()}

    def _infos(self, success: np.ndarray) -> Infos:
        return super()._infos(success) | {"progress": self.progress()}

    def progress(self) -> np.ndarray:
        """The share of the track that was visited, (num_envs,); 0 before the first episode."""
        shares = [car.tile_visited_count / len(car.track) if car.road else 0.0 for car in self.cars]
        return np.array(shares)
