"""Steering: the learner's action is the noise from which a frozen policy makes its next chunk of actions.

DSRL: Wagenmaker et al. 2025, "Steering Your Diffusion Policy with Latent Space Reinforcement Learning" (arXiv
2506.15799). The frozen policy keeps its weights. An action of D numbers in [-1, 1] chooses among D directions
of the noise, `bound` standard deviations to either side; the chunk's first steps are played, and a decision
counts as the environment steps that it took (`envs.interfaces.Step.durations`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np

from common.bounds import Above, Horizon, Several
from common.errors import UserError
from envs.interfaces import Observations, RawObservation, Steerable, Step, Symmetry
from envs.training import TrainingEnv

FROZEN = "frozen"  # folder in a checkpoint: a copy of the policy that is steered


@dataclass(frozen=True)
class SteeringConfig:
    """Which policy is steered, and by which part of its noise."""

    policy: str = ""  # run or checkpoint of the policy that is steered; empty: the learner acts itself
    n_action_steps: Horizon | None = None  # of each chunk are played; None: as many as that policy plays
    noise: Literal["full", "executed", "dct", "repeated"] = "dct"  # what an action chooses, see `directions`
    rank: Several = 2  # cosines over the chunk, of dct
    bound: Annotated[float, Above(0, 100)] = 2.0  # of an action, in standard deviations of the noise


def directions(config: SteeringConfig, noise_shape: tuple[int, ...], n_action_steps: int) -> np.ndarray:
    """The noise that each number of an action adds, (D, *noise_shape).

    full: each number of the noise alone. executed: those of the steps that are played. dct: the first `rank`
    cosines over the chunk, for each dimension of the actions; most of what noise moves is slow. repeated: the
    same vector for each step of the chunk, as the published code has it. All are orthonormal but `repeated`,
    whose length is the square root of the chunk's: far from what the policy has seen of its noise.

    Raises:
        UserError: this noise has no steps, or fewer than the rank.
    """
    if config.noise == "full":
        return np.eye(int(np.prod(noise_shape))).reshape(-1, *noise_shape)
    if len(noise_shape) != 2:
        raise UserError(
            f"steering.noise must be full for noise of the shape {noise_shape}, which has no steps, "
            f"got {config.noise}"
        )
    steps, size = noise_shape
    over_time = np.ones((1, steps))  # repeated
    if config.noise == "executed":
        over_time = np.eye(steps)[:n_action_steps]
    elif config.noise == "dct":
        if config.rank > steps:
            raise UserError(f"steering.rank must be at most {steps}, the noise's steps, got {config.rank}")
        frequencies = np.arange(config.rank)[:, None]
        over_time = np.cos(np.pi * frequencies * (np.arange(steps) + 0.5) / steps)
        over_time /= np.linalg.norm(over_time, axis=1, keepdims=True)
    return np.einsum("kt,ab->katb", over_time, np.eye(size)).reshape(-1, steps, size)


class Steering:
    """Turns actions into what a frozen policy does with that noise.

    Args:
        policy: is steered.
        config: by which part of its noise.

    Raises:
        UserError: its chunks are shorter than `n_action_steps`, or its noise does not fit.
    """

    def __init__(self, policy: Steerable, config: SteeringConfig) -> None:
        self.policy = policy
        self.config = config
        self.n_action_steps = config.n_action_steps or policy.n_action_steps
        if self.n_action_steps > policy.chunk_size:
            raise UserError(
                f"steering.n_action_steps must be at most {policy.chunk_size}, the actions of a chunk, "
                f"got {self.n_action_steps}"
            )
        self.directions = directions(config, policy.noise_shape, self.n_action_steps)
        self.action_size = len(self.directions)

    def noise(self, actions: np.ndarray) -> np.ndarray:
        """Actions (n, D) in [-1, 1] -> noise (n, *noise_shape)."""
        return np.tensordot(self.config.bound * actions.astype(np.float64), self.directions, 1)

    def chunks(self, actions: np.ndarray, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        """What is played of the chunks of n slots, (n_action_steps, n, A) in the task's units.

        Args:
            actions: (n, D).
            raw: of all slots.
            slots: (n,) bool, those that decide now; the others get zeros.
        """
        rows = np.flatnonzero(slots)
        seen = {name: values[rows] for name, values in raw.items()}
        chosen = self.policy.chunk(seen, self.noise(actions[rows]))[:, : self.n_action_steps]
        chunks = np.zeros((self.n_action_steps, len(slots), *chosen.shape[2:]))
        chunks[:, rows] = chosen.swapaxes(0, 1)
        return chunks

    def random_actions(self, rng: np.random.Generator, slots: int) -> np.ndarray:
        """Actions (slots, D) whose noise is what the policy draws by itself, cut off at the bound."""
        drawn = rng.normal(size=(slots, self.action_size)) / self.config.bound
        return np.clip(drawn, -1.0, 1.0).astype(np.float32)


class SteeringEnv:
    """A training environment whose action is the noise, see `envs.interfaces.TrainingEnv`.

    An episode that ends within a chunk waits for the others' next decision. The mirror is left out: a frozen
    policy need not be its own mirror image.

    Args:
        env: plays the chunks and has the reward, the starts and what the learner sees.
        steering: makes the chunks.
    """

    symmetry: Symmetry | None = None

    def __init__(self, env: TrainingEnv, steering: Steering) -> None:
        self.env = env
        self.steering = steering
        self.num_envs = env.num_envs
        self.observation_size = env.observation_size
        self.pixel_shape, self.stack = env.pixel_shape, env.stack
        self.action_size = steering.action_size

    def random_actions(self, rng: np.random.Generator) -> np.ndarray:
        return self.steering.random_actions(rng, self.num_envs)

    def reset(self, mask: np.ndarray | None = None) -> Observations:
        return self.env.reset(mask)

    def step(self, actions: np.ndarray) -> Step:
        """Play a chunk each.

        Args:
            actions: (n, D) in [-1, 1].
        """
        raw, active = self.env.raw, self.env.env.active
        chunk = self.steering.chunks(actions, raw, active)
        self.env.codec.advance(chunk, raw, active)
        return self.env.play(chunk)

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return self.env.state_dict()

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> Observations:
        return self.env.load_state_dict(state, arrays)


@dataclass(frozen=True)
class Frozen:
    """Where the policy that is steered lies."""

    folder: Path  # its config.json and weights
    fingerprint: str  # of their content
