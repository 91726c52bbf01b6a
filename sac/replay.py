"""Experience as the training loop sees it: decisions go in, batches of n-step transitions come out."""

from typing import Protocol

import numpy as np
import torch

from common.checkpoint import part
from envs.interfaces import Observations, Step, Symmetry, TrainingEnv
from sac.augmentation import Mirror
from sac.config import AgentConfig
from sac.frame_replay import FrameReplay
from sac.replay_buffer import Batch, NStepWindow, ReplayBuffer


class Replay(Protocol):
    """The latest decisions of several environments."""

    @property
    def size(self) -> int: ...  # transitions that can be drawn
    @property
    def position(self) -> int: ...  # where the next one goes

    def add(
        self, observations: Observations, actions: np.ndarray, step: Step, next_observations: Observations
    ) -> None:
        """Take one decision of every environment.

        Args:
            observations: (n, ...) before it.
            actions: (n, A).
            step: what it led to.
            next_observations: (n, ...) before the next: where an episode ended, of the one that has begun.
        """
        ...

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Transitions, drawn uniformly with replacement by a generator of the replay's device; augmented."""
        ...

    def full_bytes(self, decisions: int) -> int:
        """What it takes on a disk after that many."""
        ...

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All but pictures; names begin with `replay.` or `window.`."""
        ...

    def load_state_dict(self, state: dict[str, torch.Tensor], position: int) -> None:
        """Hold what `state_dict` returned.

        Raises:
            LookupError, RuntimeError, ValueError: it is of another training.
        """
        ...


class StateReplay:
    """Of observations that are numbers: made to n-step transitions on the way in, mirrored on the way out.

    Args:
        capacity: in transitions.
        num_envs, observation_size, action_size: n, D and A.
        n_step, gamma: of the returns.
        symmetry: of the task, if it has one.
        device: where batches are gathered.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        observation_size: int,
        action_size: int,
        n_step: int,
        gamma: float,
        symmetry: Symmetry | None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.buffer = ReplayBuffer(capacity, observation_size, action_size, device)
        self.window = NStepWindow(num_envs, observation_size, action_size, n_step, gamma)
        self.mirror = Mirror(symmetry, device) if symmetry else None

    @property
    def size(self) -> int:
        return self.buffer.size

    @property
    def position(self) -> int:
        return self.buffer.position

    def add(
        self, observations: Observations, actions: np.ndarray, step: Step, next_observations: Observations
    ) -> None:
        assert isinstance(observations, np.ndarray) and isinstance(step.observations, np.ndarray)
        completed = self.window.add(
            observations,
            actions,
            step.rewards,
            step.observations,
            step.terminated,
            step.truncated,
            step.durations,
        )
        self.buffer.add(completed)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        batch = self.buffer.sample(batch_size, generator)
        return self.mirror(batch) if self.mirror else batch

    def full_bytes(self, decisions: int) -> int:
        rows = self.buffer.rows
        return min(decisions, len(rows)) * rows[:1].nbytes

    def state_dict(self) -> dict[str, torch.Tensor]:
        parts = {"replay": self.buffer.state_dict(), "window": self.window.state_dict()}
        return {f"{of}.{name}": value for of, values in parts.items() for name, value in values.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor], position: int) -> None:
        self.buffer.load_state_dict(part(state, "replay"), position)
        self.window.load_state_dict(part(state, "window"))


def make_replay(
    env: TrainingEnv,
    capacity: int,
    config: AgentConfig,
    device: torch.device | str,
    num_envs: int | None = None,
    action_size: int | None = None,
) -> Replay:
    """The replay of this environment.

    Args:
        config: of the returns and pictures.
        num_envs: environments that fill it; None: those of `env`.
        action_size: numbers of an action in it; None: those of `env`.
    """
    num_envs, action_size = num_envs or env.num_envs, action_size or env.action_size
    if env.pixel_shape:
        height, width, channels = env.pixel_shape
        return FrameReplay(
            capacity,
            num_envs,
            (height, width, channels // env.stack),
            env.stack,
            env.observation_size,
            action_size,
            config.n_step,
            config.gamma,
            device,
            config.encoder.shift,
            env.symmetry,
            config.encoder.views,
            config.encoder.target_views,
            config.encoder.brightness,
        )
    return StateReplay(
        capacity,
        num_envs,
        env.observation_size,
        action_size,
        config.n_step,
        config.gamma,
        env.symmetry,
        device,
    )
