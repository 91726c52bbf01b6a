"""Any Gymnasium environment with a box of observations and a box of actions, as a `VectorEnv`.

Gymnasium's own vector environments also step environments whose episode has ended. Here those are left alone.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from envs.interfaces import Infos, RawObservation

if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame, which draws many of them, complains without
UNBOUNDED = 1e6  # a space's bound from here on counts as none


class GymVectorEnv:
    """`num_envs` environments of one kind, stepped one by one.

    Args:
        env_id: as `gymnasium.make` takes it.
        num_envs: how many.
        termination_is_success: of an episode; else success is what the environment's `info` says of it.

    Observations: `state` (n, ...) float32, what the environment returns.
    """

    def __init__(self, env_id: str, num_envs: int, termination_is_success: bool = False) -> None:
        self.num_envs = num_envs
        self.termination_is_success = termination_is_success
        self.envs = [gymnasium.make(env_id, render_mode="rgb_array") for _ in range(num_envs)]
        observations, actions = self.envs[0].observation_space, self.envs[0].action_space
        if not isinstance(observations, spaces.Box) or not isinstance(actions, spaces.Box):
            raise TypeError(f"{env_id}: its observations and actions must be boxes")
        self.single_observation_space = spaces.Dict({"state": observations})
        self.single_action_space: spaces.Box = actions
        self.active = np.zeros(num_envs, bool)
        self._states = np.zeros((num_envs, *observations.shape), np.float32)

    def reset(
        self, *, seed: Sequence[int] | np.ndarray, options: dict[str, Any] | None = None
    ) -> tuple[RawObservation, Infos]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for i in np.flatnonzero(mask):
            self._states[i], _ = self.envs[i].reset(seed=int(seed[i]))
        self.active |= mask
        return {"state": self._states.copy()}, {}

    def step(self, actions: np.ndarray) -> tuple[RawObservation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        rewards = np.zeros(self.num_envs)
        terminated, truncated, success = np.zeros((3, self.num_envs), bool)
        reported = self.termination_is_success
        for i in np.flatnonzero(self.active):
            self._states[i], rewards[i], terminated[i], truncated[i], info = self.envs[i].step(actions[i])
            success[i] = terminated[i] if self.termination_is_success else info.get("is_success", False)
            reported |= "is_success" in info
        self.active &= ~(terminated | truncated)
        infos = {"is_success": success} if reported else {}
        return {"state": self._states.copy()}, rewards, terminated, truncated, infos

    def frames(self, size: int, slots: np.ndarray) -> np.ndarray:
        """Pictures (len(slots), size, size, 3) uint8 RGB, the environment's own, resized."""
        pictures = [np.asarray(self.envs[i].render()) for i in slots]
        return np.stack(
            [cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA) for picture in pictures]
        )


class BoxCodec:
    """A `Codec` of `GymVectorEnv`: `state` and actions scaled from their spaces to [-1, 1].

    Numbers without bounds stay as they are.
    """

    def __init__(self, env: GymVectorEnv) -> None:
        observations, actions = env.envs[0].observation_space, env.single_action_space
        assert isinstance(observations, spaces.Box)
        bounded = (observations.low > -UNBOUNDED) & (observations.high < UNBOUNDED)
        middle, half = (
            (observations.low + observations.high) / 2,
            (observations.high - observations.low) / 2,
        )
        self.middle = np.where(bounded, middle, 0.0).astype(np.float32)
        self.half = np.where(bounded, half, 1.0).astype(np.float32)
        self.action_middle = (actions.high + actions.low) / 2
        self.action_half = (actions.high - actions.low) / 2
        self.observation_size, self.action_size = int(self.middle.size), int(actions.low.size)
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
