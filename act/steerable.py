"""An imitation policy that makes chunks of noise, which can be chosen."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from act.player import ChunkPlayer
from envs.interfaces import RawObservation


class SteerablePlayer(ChunkPlayer):
    """An `envs.interfaces.Steerable`: flow, diffusion and SmolVLA by their first noise, ACT by its latent.

    The arguments are `ChunkPlayer`'s, with a policy whose kind has a `noise_shape`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shape = self.kind.noise_shape(self.policy.config)
        assert shape is not None
        self.noise_shape: tuple[int, ...] = shape
        self.sampled = False  # `act` draws noise from N(0, I); else it is 0
        self.rng = np.random.default_rng(0)  # of all slots, until `seed_slots`
        self.slot_rngs: list[np.random.Generator] = []

    def seed_slots(self, seeds: Sequence[int]) -> None:
        self.slot_rngs = [np.random.default_rng(seed) for seed in seeds]

    def chunk(self, observations: RawObservation, noise: np.ndarray) -> np.ndarray:
        """What `act` would play of n slots with this noise, and what it would predict beyond.

        Args:
            observations: raw, (n, ...) each; of a policy with a `history` of several (n, history, ...).
            noise: (n, *noise_shape).

        Returns:
            actions (n, chunk_size, A) in the task's units, within its bounds.
        """
        seen = {name: observations[name] for name in self.names.values()}
        if self._sees_history and self.history == 1:
            seen = {name: values[:, None] for name, values in seen.items()}
        wanted = (len(next(iter(seen.values()))), *self.noise_shape)
        if noise.shape != wanted:
            raise ValueError(f"noise must be of shape {wanted}, got {noise.shape}")
        return np.clip(self._actions(self._chunks(seen, noise)), self.lowest, self.highest)

    def _noise(self, slots: np.ndarray) -> np.ndarray:
        shape = (len(slots), *self.noise_shape)
        if not self.sampled:
            return np.zeros(shape)
        if self.slot_rngs:
            return np.stack([self.slot_rngs[slot].standard_normal(self.noise_shape) for slot in slots])
        return self.rng.standard_normal(shape)
