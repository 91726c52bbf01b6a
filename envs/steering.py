"""Steering: the learner's action is the noise from which a frozen policy makes its next chunk of actions.

DSRL: Wagenmaker et al. 2025, "Steering Your Diffusion Policy with Latent Space Reinforcement Learning" (arXiv
2506.15799). The frozen policy keeps its weights. An action of D numbers in [-1, 1] chooses among D directions
of the noise, `bound` standard deviations to either side; the chunk's first steps are played, and a decision
counts as the environment steps that it took (`envs.interfaces.Step.durations`).
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from common.bounds import Above, Between, Several
from common.errors import UserError
from envs.history import History
from envs.interfaces import Codec, Observations, RawObservation, Steerable, Step, Symmetry, Task
from envs.symmetric import SymmetricChunks
from envs.training import TaskTrainingEnv

if TYPE_CHECKING:
    from envs.aliasing import NoiseAliasing

MOST_NUMBERS = 10_000_000  # in all directions of the noise together
FROZEN = "frozen"  # folder in a checkpoint: a copy of the policy that is steered


@dataclass(frozen=True)
class SteeringConfig:
    """Which policy is steered, and by which part of its noise."""

    policy: str = ""  # run or checkpoint of the policy that is steered; empty: the learner acts itself
    # Actions played of each chunk; None: as many as that policy plays.
    n_action_steps: Annotated[int | None, Between(1, 10_000)] = None
    noise: Literal["full", "executed", "dct", "repeated"] = "dct"  # what an action chooses, see `directions`
    rank: Several = 2  # cosines over the chunk, of dct
    bound: Annotated[float, Above(0, 100)] = 2.0  # of an action, in standard deviations of the noise
    symmetric: bool = False  # make the frozen policy its own mirror image, as env.mirror needs it

    IF_ABSENT: ClassVar = {"symmetric": False}


def directions(config: SteeringConfig, noise_shape: tuple[int, ...], played: range) -> np.ndarray:
    """The noise that each number of an action adds, (D, *noise_shape); `played` are the steps that are.

    full: each number of the noise alone. executed: those of the steps that are played. dct: the first `rank`
    cosines over the chunk, for each dimension of the actions; most of what noise moves is slow. repeated: the
    same vector for each step of the chunk, as the published code has it. All are orthonormal but `repeated`,
    whose directions are as long as the square root of the chunk's steps.

    Raises:
        UserError: this noise has no steps, fewer than the rank, or too many numbers.
    """
    size = math.prod(noise_shape)
    chosen = {
        "full": size,
        "executed": size * len(played) // noise_shape[0],
        "dct": size * config.rank // noise_shape[0],
        "repeated": size // noise_shape[0],
    }[config.noise]
    if chosen * size > MOST_NUMBERS:
        raise UserError(
            f"steering.noise must choose fewer numbers: {config.noise} chooses {chosen:,} of {size:,}"
        )
    if config.noise == "full":
        return np.eye(size).reshape(-1, *noise_shape)
    if len(noise_shape) != 2:
        raise UserError(
            f"steering.noise must be full for noise of the shape {noise_shape}, which has no steps, "
            f"got {config.noise}"
        )
    steps, action_size = noise_shape
    over_time = np.ones((1, steps))  # repeated
    if config.noise == "executed":
        over_time = np.eye(steps)[played]
    elif config.noise == "dct":
        if config.rank > steps:
            raise UserError(f"steering.rank must be at most {steps}, the noise's steps, got {config.rank}")
        frequencies = np.arange(config.rank)[:, None]
        over_time = np.cos(np.pi * frequencies * (np.arange(steps) + 0.5) / steps)
        over_time /= np.linalg.norm(over_time, axis=1, keepdims=True)
    return np.einsum("kt,ab->katb", over_time, np.eye(action_size)).reshape(-1, steps, action_size)


class Steering:
    """Turns actions into what a frozen policy does with that noise.

    Args:
        policy: is steered.
        config: by which part of its noise.
        task: that it plays.

    Raises:
        UserError: its chunks are shorter than `n_action_steps`, or averaged, or its noise does not fit; or it
            cannot be made its own mirror image.
    """

    def __init__(self, policy: Steerable, config: SteeringConfig, task: Task) -> None:
        self.policy = policy
        self.config = config
        self.n_action_steps = config.n_action_steps or policy.n_action_steps
        if self.n_action_steps > policy.chunk_size:
            raise UserError(
                f"steering.n_action_steps must be at most {policy.chunk_size}, the actions of a chunk, "
                f"got {self.n_action_steps}"
            )
        if getattr(policy, "temporal_ensemble_coeff", None) is not None:
            raise UserError("steering.policy must not average its chunks, and has a temporal_ensemble_coeff")
        # A diffusion policy that sees several steps begins its chunk before the latest of them.
        first = max(policy.noise_shape[0] - policy.chunk_size, 0)
        played = range(first, first + self.n_action_steps)
        self.directions = directions(config, policy.noise_shape, played)
        self.action_size = len(self.directions)
        self.symmetric = SymmetricChunks(policy, task) if config.symmetric else None

    def new_history(self) -> History | None:
        """What `decode` needs of the observations; None: the current ones."""
        return History(self.policy.history) if self.policy.history > 1 else None

    def noise(self, actions: np.ndarray) -> np.ndarray:
        """Actions (n, D) in [-1, 1] -> noise (n, *noise_shape)."""
        return np.tensordot(self.config.bound * actions.astype(np.float64), self.directions, 1)

    def decode(
        self,
        codec: Codec,
        actions: np.ndarray,
        raw: RawObservation,
        slots: np.ndarray,
        history: History | None = None,
    ) -> np.ndarray:
        """What is played of the chunks of n slots, (n_action_steps, n, A) in the task's units.

        Args:
            codec: of what the learner sees; it advances by these chunks.
            actions: (n, D).
            raw: of all slots.
            slots: (n,) bool, those that decide now; the others get zeros.
            history: of all slots, where the frozen policy sees several observations.

        Raises:
            UserError: a chunk is not finite.
        """
        rows = np.flatnonzero(slots)
        shown = history.observations if history else raw
        seen = {name: values[rows] for name, values in shown.items()}
        chunk = self.symmetric or self.policy.chunk
        chosen = chunk(seen, self.noise(actions[rows]))[:, : self.n_action_steps]
        if not np.isfinite(chosen).all():
            raise UserError("steering.policy returned actions that are not finite numbers")
        chunks = np.zeros((self.n_action_steps, len(slots), *chosen.shape[2:]))
        chunks[:, rows] = chosen.swapaxes(0, 1)
        codec.advance(chunks, raw, slots)
        return chunks

    def random_actions(self, rng: np.random.Generator, slots: int) -> np.ndarray:
        """Actions (slots, D) whose noise is N(0, 1) in the chosen directions, clipped to the bound."""
        drawn = rng.normal(size=(slots, self.action_size)) / self.config.bound
        return np.clip(drawn, -1.0, 1.0).astype(np.float32)


def image_size(codec: Codec, steering: Steering | None) -> int:
    """Side of the pictures that a learner, with this codec, and the policy that it steers see; 0 for none.

    Raises:
        UserError: both see some, of different sizes.
    """
    own = codec.pixel_shape[0] if codec.pixel_shape else 0
    frozen = steering.policy.image_size if steering else 0
    if own and frozen and own != frozen:
        raise UserError(f"env.pixels.size must be {frozen}, as steering.policy's pictures, got {own}")
    return own or frozen


class SteeringEnv:
    """A training environment whose action is the noise, see `envs.interfaces.TrainingEnv`.

    An episode that ends within a chunk waits for the others' next decision.

    Args:
        env: plays the chunks and has the reward, the starts and what the learner sees.
        steering: makes the chunks.
        aliasing: what the replay holds in place of the noise, see `envs/aliasing.py`; None: the noise.

    Raises:
        UserError: the environment repeats actions, or has a mirror that the frozen policy has not; or the
            learner sees pictures, with `aliasing`.
    """

    def __init__(
        self, env: TaskTrainingEnv, steering: Steering, aliasing: "NoiseAliasing | None" = None
    ) -> None:
        if env.decision_steps > 1:
            raise UserError(f"env.action_repeat must be 1 with steering.policy, got {env.decision_steps}")
        if env.symmetry and not steering.symmetric:
            raise UserError(
                "env.mirror must be false with steering.policy, which need not be its own mirror image; "
                "--steering.symmetric makes it one, where the task can mirror what it sees"
            )
        if aliasing and env.pixel_shape:
            raise UserError("agent.noise_aliasing must be false where the learner sees pictures")
        self.env = env
        self.env.history = steering.new_history()
        self.steering = steering
        self.aliasing = aliasing
        self.num_envs, self.decision_steps = env.num_envs, steering.n_action_steps
        self.observation_size = env.observation_size + (aliasing.size if aliasing else 0)
        self.pixel_shape, self.stack = env.pixel_shape, env.stack
        self.action_size = steering.action_size
        self.symmetry: Symmetry | None = None
        if env.symmetry and steering.symmetric:
            self.symmetry = steering.symmetric.symmetry(env.symmetry, steering.directions)

    def random_actions(self, rng: np.random.Generator) -> np.ndarray:
        return self.steering.random_actions(rng, self.num_envs)

    def reset(self, mask: np.ndarray | None = None) -> Observations:
        return self._with_context(self.env.reset(mask))

    def step(self, actions: np.ndarray) -> Step:
        """Play a chunk each.

        Args:
            actions: (n, D) in [-1, 1].
        """
        env = self.env
        chunks = self.steering.decode(env.codec, actions, env.raw, env.env.active, env.history)
        if not self.aliasing:
            return env.play(chunks)
        executed = self.aliasing.executed(chunks.swapaxes(0, 1), self._context)
        step = env.play(chunks)
        return step._replace(observations=self._with_context(step.observations), executed=executed)

    def _with_context(self, seen: Observations) -> Observations:
        """What the learner sees now and, with `aliasing`, the context of the critics."""
        if not self.aliasing:
            return seen
        assert isinstance(seen, np.ndarray)
        self._context = self.aliasing.context(
            self.env.history.observations if self.env.history else self.env.raw
        )
        return np.concatenate([seen, self._context], axis=1)

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        return self.env.state_dict()

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> Observations:
        return self._with_context(self.env.load_state_dict(state, arrays))


@dataclass(frozen=True)
class Frozen:
    """The policy that is steered, as a checkpoint keeps it."""

    source: str  # where it was found
    files: dict[str, bytes]  # its settings and weights, by name
    fingerprint: str  # of their content
