"""Any Gymnasium environment with a box of observations and a box of actions, as a `VectorEnv`.

Gymnasium's own vector environments also step environments whose episode has ended. Here those are left alone.
"""

import os
import sys
from collections.abc import Sequence
from typing import Any, Literal, get_args

import cv2
import gymnasium
import numpy as np
from gymnasium import spaces

from common.errors import UserError, reason, show
from envs.interfaces import Infos, RawObservation

Success = Literal["none", "termination", "info"]

os.environ.setdefault("SDL_NO_SIGNAL_HANDLERS", "1")  # else pygame swallows SIGTERM once it has drawn
if sys.platform == "linux" and not {"DISPLAY", "WAYLAND_DISPLAY"} & os.environ.keys():
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame, which draws many of them, complains without
UNBOUNDED = 1e6  # a space's bound from here on counts as none


class GymVectorEnv:
    """`num_envs` environments of one kind, stepped one by one.

    Args:
        env_id: as `gymnasium.make` takes it.
        num_envs: how many.
        success: of a step: a termination, what `info["is_success"]` says, or nothing that there is.

    Observations: `state` (n, ...) float32, what the environment returns. Start states cannot be set.

    Raises:
        UserError: there is no such environment, it is of another kind, or there is no such success.
    """

    def __init__(self, env_id: str, num_envs: int, success: Success = "none") -> None:
        if success not in get_args(Success):
            raise UserError(
                f"{env_id}: success must be {' or '.join(get_args(Success))}, got {show(success)}"
            )
        self.num_envs = num_envs
        self.success: Success = success
        try:
            self.envs = [gymnasium.make(env_id, render_mode="rgb_array") for _ in range(num_envs)]
        except gymnasium.error.Error as error:  # unknown, or without a package of its own
            raise UserError(f"{env_id}: Gymnasium cannot make it: {reason(error)}") from None
        observations, actions = self.envs[0].observation_space, self.envs[0].action_space
        if not isinstance(observations, spaces.Box) or not isinstance(actions, spaces.Box):
            raise UserError(f"{env_id}: its observations and actions must be boxes")
        if not actions.is_bounded():
            raise UserError(f"{env_id}: its actions must have bounds")
        self.state_space = observations
        self.single_observation_space = spaces.Dict({"state": observations})
        self.single_action_space: spaces.Box = actions
        self.active = np.zeros(num_envs, bool)
        self.watched = np.ones(num_envs, bool)
        self._states = np.zeros((num_envs, *observations.shape), np.float32)

    def reset(
        self, *, seed: Sequence[int] | np.ndarray, options: dict[str, Any] | None = None
    ) -> tuple[RawObservation, Infos]:
        mask = beginning(self.num_envs, options)
        for i in np.flatnonzero(mask):
            self._states[i], _ = self.envs[i].reset(seed=int(seed[i]))
        self.active |= mask
        return {"state": self._states.copy()}, self._infos(np.zeros(self.num_envs, bool))

    def step(self, actions: np.ndarray) -> tuple[RawObservation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        rewards = np.zeros(self.num_envs)
        terminated, truncated, success = np.zeros((3, self.num_envs), bool)
        for i in np.flatnonzero(self.active):
            self._states[i], rewards[i], terminated[i], truncated[i], info = self.envs[i].step(actions[i])
            success[i] = terminated[i] if self.success == "termination" else info.get("is_success", False)
        self.active &= ~(terminated | truncated)
        return {"state": self._states.copy()}, rewards, terminated, truncated, self._infos(success)

    def _infos(self, success: np.ndarray) -> Infos:
        return {} if self.success == "none" else {"is_success": success}

    def frames(self, size: int, slots: np.ndarray) -> np.ndarray:
        """Pictures (len(slots), size, size, 3) uint8 RGB: the environment's own, scaled, on white."""
        return np.stack([_square(np.asarray(self.envs[i].render()), size) for i in slots])


def beginning(num_envs: int, options: dict[str, Any] | None) -> np.ndarray:
    """Which episodes a reset begins, (n,) bool, where only seeds say how.

    Raises:
        ValueError: the options have start states.
    """
    options = options or {}
    if not np.isnan(options.get("states", np.nan)).any(axis=-1).all():
        raise ValueError("this environment starts where its seed says")
    return options.get("reset_mask", np.ones(num_envs, bool))


def _square(picture: np.ndarray, size: int) -> np.ndarray:
    """A picture (height, width, 3) scaled to fit into (size, size, 3)."""
    height, width = (max(1, round(side * size / max(picture.shape[:2]))) for side in picture.shape[:2])
    square = np.full((size, size, 3), 255, np.uint8)
    top, left = (size - height) // 2, (size - width) // 2
    scaled = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    square[top : top + height, left : left + width] = scaled
    return square


class BoxCodec:
    """A `Codec` of `GymVectorEnv`: `state` and actions scaled from their spaces to [-1, 1].

    Numbers without bounds, or with two equal ones, stay as they are.
    """

    pixel_shape: tuple[int, int, int] | None = None
    stack = 0

    def __init__(self, observations: spaces.Box, actions: spaces.Box) -> None:
        bounded = (observations.low > -UNBOUNDED) & (observations.high < UNBOUNDED)
        bounded &= observations.low < observations.high
        low, high = np.where(bounded, observations.low, -1.0), np.where(bounded, observations.high, 1.0)
        self.middle, self.half = ((low + high) / 2).astype(np.float32), ((high - low) / 2).astype(np.float32)
        self.action_middle = (actions.high + actions.low) / 2
        self.action_half = (actions.high - actions.low) / 2
        self.observation_size, self.action_size = self.middle.size, self.action_middle.size
        self.env_steps = np.inf

    def reset(self, slots: np.ndarray, raw: RawObservation) -> None:
        pass

    def encode(self, raw: RawObservation) -> np.ndarray:
        return ((raw["state"] - self.middle) / self.half).reshape(-1, self.observation_size)

    def decode(self, actions: np.ndarray, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        return self.action_middle + self.action_half * actions.reshape(-1, *self.action_middle.shape)

    def advance(self, chunk: np.ndarray, raw: RawObservation, slots: np.ndarray) -> None:
        pass

    def encode_actions(self, actions: np.ndarray, raw: RawObservation) -> np.ndarray:
        moves = actions - self.action_middle
        fixed = self.action_half == 0
        return (moves / np.where(fixed, 1.0, self.action_half)).reshape(len(actions), -1)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        pass
