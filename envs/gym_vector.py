"""Any Gymnasium environment with a box of observations and a box of actions, as a `VectorEnv`.

Gymnasium's own vector environments step those whose episode has ended, too; here they stand still.
"""

import os
from collections.abc import Sequence
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from envs.interfaces import Infos, RawObservation

os.environ.setdefault("SDL_AUDIODRIVER", "dummy")  # pygame, which draws many of them, looks for sound
UNBOUNDED = 1e6  # from here on a bound is none


class GymVectorEnv:
    """`num_envs` environments of one kind, stepped one by one.

    Args:
        id: as `gymnasium.make` takes it; also the arguments in `kwargs`.

    Observations: `state` (n, ...), what the environment returns. Infos: `is_success` where it reports one.
    """

    def __init__(self, id: str, num_envs: int, **kwargs: Any) -> None:
        self.num_envs = num_envs
        self.envs = [gymnasium.make(id, render_mode="rgb_array", **kwargs) for _ in range(num_envs)]
        self.single_observation_space = spaces.Dict({"state": self.envs[0].observation_space})
        self.single_action_space = self.envs[0].action_space
        self.active = np.zeros(num_envs, bool)
        self._states = np.zeros((num_envs, *self.envs[0].observation_space.shape), np.float32)

    def reset(
        self, *, seed: Sequence[int], options: dict[str, Any] | None = None
    ) -> tuple[RawObservation, Infos]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for i in np.flatnonzero(mask):
            self._states[i], _ = self.envs[i].reset(seed=int(seed[i]))
        self.active |= mask
        return {"state": self._states.copy()}, {}

    def step(self, actions: np.ndarray) -> tuple[RawObservation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        rewards, terminated, truncated = np.zeros(self.num_envs), *np.zeros((2, self.num_envs), bool)
        infos: Infos = {}
        for i in np.flatnonzero(self.active):
            self._states[i], rewards[i], terminated[i], truncated[i], info = self.envs[i].step(actions[i])
            if "is_success" in info:
                infos.setdefault("is_success", np.zeros(self.num_envs, bool))[i] = info["is_success"]
        self.active &= ~(terminated | truncated)
        return {"state": self._states.copy()}, rewards, terminated, truncated, infos

    def frames(self, size: int, slots: np.ndarray) -> np.ndarray:
        pictures = [self.envs[i].render() for i in slots]
        return np.stack(
            [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in pictures]
        )


class BoxCodec:
    """An `envs.interfaces.Codec` of `GymVectorEnv`: `state` scaled to [-1, 1], actions to the action space.

    Numbers without bounds stay as they are.
    """

    def __init__(self, env: GymVectorEnv) -> None:
        box, actions = env.single_observation_space["state"], env.single_action_space
        bounded = (box.low > -UNBOUNDED) & (box.high < UNBOUNDED)
        self.middle = np.where(bounded, (box.low + box.high) / 2, 0.0).astype(np.float32)
        self.half = np.where(bounded, (box.high - box.low) / 2, 1.0).astype(np.float32)
        self.action_middle, self.action_half = (
            (actions.high + actions.low) / 2,
            (actions.high - actions.low) / 2,
        )
        self.observation_size, self.action_size = box.shape[0], actions.shape[0]
        self.env_steps = np.inf

    def reset(self, slots: np.ndarray, raw: RawObservation) -> None:
        pass

    def encode(self, raw: RawObservation) -> np.ndarray:
        return (raw["state"] - self.middle) / self.half

    def decode(self, actions: np.ndarray, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        return self.action_middle + self.action_half * actions

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        pass
