"""Experience in preallocated tensors on one device, written and sampled without loops over transitions.

n-step returns are made on the way in: a transition waits in a window of n until its return is complete. So a
window never crosses the write head or an episode's end, and sampling is one gather.
"""

from typing import NamedTuple

import numpy as np
import torch

from common.memory import check_fits


class Batch(NamedTuple):
    """Transitions over up to n steps. There is no `done`: `discounts` says what the future is worth."""

    observations: torch.Tensor  # (B, D)
    actions: torch.Tensor  # (B, A)
    rewards: torch.Tensor  # (B,) discounted sum over the steps
    next_observations: torch.Tensor  # (B, D) after the last of them
    discounts: torch.Tensor  # (B,) gamma^(environment steps), or 0 where the episode terminated


class NStepWindow:
    """Transitions of `num_envs` environments whose n-step return is not complete yet.

    Row s of each array holds what began s decisions ago. Gamma counts environment steps: a decision that
    lasts d of them discounts what follows by gamma^d.
    """

    def __init__(
        self, num_envs: int, observation_size: int, action_size: int, n_step: int, gamma: float
    ) -> None:
        self.observations = np.zeros((n_step, num_envs, observation_size), np.float32)
        self.actions = np.zeros((n_step, num_envs, action_size), np.float32)
        self.rewards = np.zeros((n_step, num_envs), np.float32)
        self.durations = np.zeros((n_step, num_envs), np.int64)  # environment steps so far
        self.open = np.zeros((n_step, num_envs), bool)
        self.gamma = np.float32(gamma)

    def add(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
        durations: np.ndarray,
    ) -> Batch:
        """Take one decision of every environment; return the transitions that it completed, oldest first.

        Args:
            observations, actions: (n, D) and (n, A), before the decision.
            rewards: (n,), discounted within it.
            next_observations: (n, D) after it.
            terminated, truncated: (n,) bool.
            durations: (n,) environment steps that it lasted.
        """
        for rows, new in (
            (self.observations, observations),
            (self.actions, actions),
            (self.rewards, np.float32(0)),
            (self.durations, 0),
            (self.open, True),
        ):
            rows[1:] = rows[:-1].copy()
            rows[0] = new
        self.rewards += self._discount(self.durations) * rewards.astype(np.float32)
        self.durations += durations

        complete = self.open & (terminated | truncated)
        complete[-1] |= self.open[-1]
        self.open &= ~complete
        age, env = np.nonzero(complete[::-1])
        age = len(complete) - 1 - age
        return Batch(
            observations=torch.from_numpy(self.observations[age, env]),
            actions=torch.from_numpy(self.actions[age, env]),
            rewards=torch.from_numpy(self.rewards[age, env]),
            next_observations=torch.from_numpy(next_observations[env]),
            discounts=torch.from_numpy(self._discount(self.durations[age, env]) * ~terminated[env]),
        )

    def _discount(self, durations: np.ndarray) -> np.ndarray:
        return self.gamma ** durations.astype(np.float32)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(rows) for name, rows in self._rows().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name, rows in self._rows().items():
            if name == "durations" and name not in state:  # former decisions were one environment step each
                rows[:] = np.arange(1, len(rows) + 1)[:, None]
            else:
                rows[:] = state[name].numpy()

    def _rows(self) -> dict[str, np.ndarray]:
        names = ("observations", "actions", "rewards", "durations", "open")
        return {name: getattr(self, name) for name in names}


class ReplayBuffer:
    """The last `capacity` transitions, sampled uniformly.

    Args:
        capacity: in transitions; the oldest are overwritten.
        device: where the tensors live and batches are gathered.

    Raises:
        UserError: that many do not fit into the memory.
    """

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        device: torch.device | str = "cpu",
    ) -> None:
        self.capacity = capacity
        self.position = 0  # where the next transition goes
        self.size = 0
        self.device = torch.device(device)
        self.widths = [observation_size, action_size, 1, observation_size, 1]  # in the order of Batch
        check_fits(f"buffer_capacity {capacity:,}", capacity * sum(self.widths), device)
        # A transition is a row, so that a batch is one gather.
        self.rows = torch.zeros(capacity, sum(self.widths), device=device)

    def add(self, transitions: Batch) -> None:
        """Store transitions, at most `capacity`, over the oldest ones."""
        count = len(transitions.rewards)
        new = torch.cat(
            [f.view(count, width) for f, width in zip(transitions, self.widths, strict=True)], dim=1
        )
        new = new.to(self.device, non_blocking=True)
        fitting = min(count, self.capacity - self.position)  # the others begin anew at row 0
        self.rows[self.position : self.position + fitting] = new[:fitting]
        self.rows[: count - fitting] = new[fitting:]
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """`batch_size` transitions with replacement, drawn by a generator of the buffer's device."""
        drawn = torch.randint(self.size, (batch_size,), device=self.device, generator=generator)
        return self._fields(self.rows.index_select(0, drawn))

    def held(self) -> Batch:
        """All transitions that it holds, as views."""
        return self._fields(self.rows[: self.size])

    def _fields(self, rows: torch.Tensor) -> Batch:
        observations, actions, rewards, next_observations, discounts = rows.split(self.widths, dim=1)
        return Batch(observations, actions, rewards[:, 0], next_observations, discounts[:, 0])

    def state_dict(self) -> dict[str, torch.Tensor]:
        """What it holds, by field."""
        return {name: field.contiguous() for name, field in self.held()._asdict().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor], position: int) -> None:
        """Hold what `state_dict` returned; the next transition goes to row `position`.

        Raises:
            ValueError: it does not fit.
        """
        size = len(state["rewards"])
        if not 0 <= position < self.capacity or (size < self.capacity and position != size):
            raise ValueError(f"replay_position must be {size % self.capacity}, got {position}")
        for name, field in self._fields(self.rows[:size])._asdict().items():
            if state[name].shape != field.shape:  # else they would be repeated
                raise ValueError(f"{name} has the shape {tuple(state[name].shape)}")
            field.copy_(state[name])
        self.position, self.size = position, size
