"""An imitation policy that makes chunks of noise, which can be chosen."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from act.player import ChunkPlayer, lerobot_observation
from envs.interfaces import RawObservation


class SteerablePlayer(ChunkPlayer):
    """An `envs.interfaces.Steerable`: flow, diffusion and SmolVLA by their first noise, ACT by its latent.

    The arguments are `ChunkPlayer`'s, with a policy whose kind has a `noise_shape`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        shape = self.kind.noise_shape(self.policy.config)
        assert shape is not None
        self.sees = tuple(self.names.values())
        self.noise_shape: tuple[int, ...] = shape
        self._lowest, self._highest = torch.from_numpy(self.lowest), torch.from_numpy(self.highest)
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
        seen = self._seen(observations)
        wanted = (len(next(iter(seen.values()))), *self.noise_shape)
        if noise.shape != wanted:
            raise ValueError(f"noise must be of shape {wanted}, got {noise.shape}")
        return np.clip(self._actions(self._chunks(seen, noise)), self.lowest, self.highest)

    def inputs(self, observations: RawObservation) -> np.ndarray:
        """What the network sees of n slots, where it sees no pictures: (n, F) float32, normalised.

        Args:
            observations: as `chunk` takes them.
        """
        seen = lerobot_observation(
            self._seen(observations), self.features, self.names, history=self._sees_history
        )
        batch = self.preprocessor(seen)
        return torch.cat([batch[name].flatten(1) for name in self.features], dim=1).cpu().numpy()

    @torch.no_grad()
    def chunk_of(self, inputs: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """`chunk`, of `inputs` (B, F) and noise (B, *noise_shape): (B, chunk_size, A) on their device."""
        history = (self.history,) if self._sees_history else ()
        shapes = {name: (*history, *feature.shape) for name, feature in self.features.items()}
        parts = inputs.split([math.prod(shape) for shape in shapes.values()], dim=1)
        batch = {name: part.reshape(-1, *shapes[name]) for name, part in zip(shapes, parts, strict=True)}
        self.policy.eval()
        normalised = self.kind.chunks(self.policy, batch, noise)
        actions = self.postprocessor(normalised.flatten(0, 1)).reshape(normalised.shape).to(inputs)
        return actions.clamp(self._lowest.to(inputs), self._highest.to(inputs))

    def _seen(self, observations: RawObservation) -> RawObservation:
        """The raw observations that the policy looks at, with an axis for its history where it has one."""
        seen = {name: observations[name] for name in self.sees}
        if self._sees_history and self.history == 1:
            seen = {name: values[:, None] for name, values in seen.items()}
        return seen

    def _noise(self, slots: np.ndarray) -> np.ndarray:
        shape = (len(slots), *self.noise_shape)
        if not self.sampled:
            return np.zeros(shape)
        if self.slot_rngs:
            return np.stack([self.slot_rngs[slot].standard_normal(self.noise_shape) for slot in slots])
        return self.rng.standard_normal(shape)
