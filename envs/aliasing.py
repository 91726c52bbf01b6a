"""Noise aliasing: critics judge the actions that a frozen policy makes of noise, in place of the noise.

DSRL-NA: Wagenmaker et al. 2025 (arXiv 2506.15799), section 4.2. Many noises make the same actions, so what is
learnt of executed actions serves all of them, and demonstrations can be learnt from, whose noise is unknown.
The critics ask the frozen policy what it would have executed: the replay holds its inputs, after what the
learner sees.
"""

import copy

import numpy as np
import torch

from common.errors import UserError
from envs.interfaces import RawObservation
from envs.steering import Steering

DRAWS = 16  # of noise in each observation, from which the spread of the actions is measured


class NoiseAliasing:
    """Executed actions of a steered policy, as the environment and as the critics get them.

    An executed action has C = n_action_steps * A numbers: the chunk that is played, minus the chunk of noise
    0 there, divided by `spread`; so it is 0 where the noise is. An observation of the replay has D + F + C
    numbers: what the learner sees, the frozen policy's inputs, and its chunk of noise 0.

    Args:
        steering: of the policy.
        observations: raw, of several starts, where the spread is measured; as `steering.policy.chunk` takes
            them.
        seen_size: D.
        device: of what the critics get.

    Raises:
        UserError: the policy sees pictures.
    """

    def __init__(
        self,
        steering: Steering,
        observations: RawObservation,
        seen_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if steering.policy.image_size:
            raise UserError(
                "agent.noise_aliasing must be false: the replay holds what steering.policy sees, "
                "and that is pictures"
            )
        self.steering = steering
        # The environment asks the policy in a thread of its own, and asking changes some kinds for a moment.
        self._policy = copy.deepcopy(steering.policy)
        self.seen_size = seen_size
        self.inputs_size = steering.policy.inputs(observations).shape[1]
        self.spread = self._measure(observations)  # (A,) of an action over drawn noise, in the task's units
        self.executed_size = steering.n_action_steps * len(self.spread)
        self.size = self.inputs_size + self.executed_size  # of `context`
        directions = steering.config.bound * steering.directions.reshape(steering.action_size, -1)
        self._directions, self._spread = (
            torch.tensor(values, dtype=torch.get_default_dtype(), device=device)
            for values in (directions, self.spread)
        )

    def _measure(self, observations: RawObservation) -> np.ndarray:
        rng, count = np.random.default_rng(0), len(next(iter(observations.values())))
        chunks = np.stack(
            [self._chunk(observations, self.steering.random_actions(rng, count)) for _ in range(DRAWS)]
        )
        spread = chunks.std(axis=0).mean(axis=(0, 1))
        return np.where(spread > 0, spread, 1.0)

    def _chunk(self, raw: RawObservation, actions: np.ndarray) -> np.ndarray:
        """The actions (n, n_action_steps, A) that are played, in the task's units."""
        chunk = self.steering.policy.chunk(raw, self.steering.noise(actions))
        return chunk[:, : self.steering.n_action_steps]

    def context(self, raw: RawObservation) -> np.ndarray:
        """The frozen policy's inputs and its chunk of noise 0, (n, F + C) float32, for the critics.

        Args:
            raw: of n slots; of a policy with a `history` of several (n, history, ...).
        """
        inputs = self.steering.policy.inputs(raw)
        base_chunk = self._chunk(raw, np.zeros((len(inputs), self.steering.action_size)))
        return np.concatenate([inputs, base_chunk.reshape(len(inputs), -1)], axis=1, dtype=np.float32)

    def executed(self, chunks: np.ndarray, context: np.ndarray) -> np.ndarray:
        """Actions (n, n_action_steps, A) in the task's units as the replay holds them, (n, C) float32.

        Args:
            chunks: that are played.
            context: (n, F + C) of the observations that they answer.
        """
        base_chunk = context[:, self.inputs_size :].reshape(chunks.shape)
        return ((chunks - base_chunk) / self.spread).reshape(len(chunks), -1).astype(np.float32)

    @torch.no_grad()
    def execute(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """What the frozen policy executes, (B, C), of the learner's actions (B, A) in [-1, 1].

        Args:
            observations: (B, D + F + C) of the replay.
        """
        context = observations[:, self.seen_size :]
        inputs, base_chunk = context.split([self.inputs_size, self.executed_size], dim=1)
        noise = (actions.to(self._directions) @ self._directions).view(-1, *self._policy.noise_shape)
        chunk = self._policy.chunk_of(inputs, noise)[:, : self.steering.n_action_steps]
        return ((chunk - base_chunk.view(chunk.shape)) / self._spread).flatten(1)

    def random_actions(self, normal: torch.Tensor) -> torch.Tensor:
        """`Steering.random_actions` of numbers that are drawn from N(0, 1)."""
        return (normal / self.steering.config.bound).clamp(-1.0, 1.0)
