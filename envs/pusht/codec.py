"""What lies between PushT and a network: features of the board in, the meaning of its actions out."""

import math
from collections.abc import Callable

import numpy as np

from envs.interfaces import RawObservation
from envs.pusht.actions import ActionDecoder
from envs.pusht.observations import feature_size, features


class PushTCodec:
    """An `envs.interfaces.Codec` of PushT.

    It remembers each slot's last target, (n, 2) pixels; at an episode's start, where the agent is.

    Args:
        num_envs: slots, n.
        feature_names: what the network sees, see `envs/pusht/observations.py`.
        decoders: environment steps of training -> what actions mean by then.
    """

    action_size = 2
    pixel_shape: tuple[int, int, int] | None = None
    stack = 0

    def __init__(
        self, num_envs: int, feature_names: tuple[str, ...], decoders: Callable[[float], ActionDecoder]
    ) -> None:
        self.feature_names = feature_names
        self.decoders = decoders
        self.observation_size = feature_size(feature_names)
        self.env_steps = math.inf
        self.last_target = np.zeros((num_envs, 2))

    def reset(self, slots: np.ndarray, raw: RawObservation) -> None:
        self.last_target[slots] = raw["agent_pos"][slots]

    def encode(self, raw: RawObservation) -> np.ndarray:
        return features(raw | {"last_target": self.last_target}, self.feature_names)

    def decode(self, actions: np.ndarray, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        targets = self.decoders(self.env_steps)(actions, raw | {"last_target": self.last_target})
        self.advance(targets[None], raw, slots)
        return self.last_target.copy()

    def advance(self, chunk: np.ndarray, raw: RawObservation, slots: np.ndarray) -> None:
        self.last_target = np.where(slots[:, None], chunk[-1], self.last_target)

    def encode_actions(self, actions: np.ndarray, raw: RawObservation) -> np.ndarray:
        return self.decoders(self.env_steps).encode(actions, raw | {"last_target": self.last_target})

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"last_target": self.last_target.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        last_target = state["last_target"]
        if last_target.shape != self.last_target.shape or not np.isfinite(last_target).all():
            raise ValueError(
                f"last_target must be finite, of shape {self.last_target.shape}, got {last_target.shape}"
            )
        self.last_target = last_target.copy()
