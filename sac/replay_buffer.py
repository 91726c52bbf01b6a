"""Experience in preallocated tensors on one device, written and sampled without loops over transitions.

n-step returns are made on the way in: a transition waits in a window of n until its return is complete. So a
window never crosses the write head or an episode's end, and sampling is one gather.
"""

from typing import NamedTuple

import numpy as np
import torch

from common.memory import check_fits


class Pixels(NamedTuple):
    """What a network sees, where it sees pictures."""

    pixels: torch.Tensor  # (B, S * C, H, W) float32, the newest picture last; channels_last memory
    numbers: torch.Tensor  # (B, D) beside them; D may be 0


Observed = torch.Tensor | Pixels  # (B, D), or with pictures


class Batch(NamedTuple):
    """Transitions over up to n steps. There is no `done`: `discounts` says what the future is worth."""

    observations: Observed  # (B, ...), or several views of each below each other
    actions: torch.Tensor  # (B, A)
    rewards: torch.Tensor  # (B,) discounted sum over the steps
    next_observations: Observed  # (B, ...) after the last of them
    discounts: torch.Tensor  # (B,) gamma^(environment steps), or 0 where the episode terminated


class NStepWindow:
    """Transitions of `num_envs` environments whose n-step return is not complete yet.

    Each array is a ring of n_step rows, one per decision: what is begun now overwrites what is complete.
    Gamma counts environment steps: a decision that lasts d of them discounts what follows by gamma^d.
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
        self.now = 0  # the row of the latest decision; the row before it is that of the decision before

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
        self.now = (self.now + 1) % len(self.open)
        self.observations[self.now], self.actions[self.now] = observations, actions
        self.rewards[self.now], self.durations[self.now], self.open[self.now] = 0.0, 0, True
        self.rewards += self._discount(self.durations) * rewards.astype(np.float32)
        self.durations += durations

        oldest_first = np.concatenate([self.open[self.now + 1 :], self.open[: self.now + 1]])
        oldest_first[1:] &= terminated | truncated  # the oldest is complete in any case
        places = np.flatnonzero(oldest_first) + (self.now + 1) * self.open.shape[1]
        places %= self.open.size  # of the ring, row by row
        ends = places % self.open.shape[1]  # the environments
        self.open.reshape(-1)[places] = False
        discounts = self._discount(self.durations.reshape(-1)[places]) * ~terminated[ends]
        return Batch(
            observations=_rows(self.observations, places),
            actions=_rows(self.actions, places),
            rewards=torch.from_numpy(self.rewards.take(places)),
            next_observations=torch.from_numpy(next_observations.take(ends, axis=0)),
            discounts=torch.from_numpy(discounts),
        )

    def _discount(self, durations: np.ndarray) -> np.ndarray:
        return self.gamma ** durations.astype(np.float32)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The rows from the latest decision to the oldest."""
        order = (self.now - np.arange(len(self.open))) % len(self.open)
        return {name: torch.from_numpy(rows[order]) for name, rows in self._rows().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.now = 0
        for name, rows in self._rows().items():
            if name == "durations" and name not in state:  # former decisions were one environment step each
                latest_first = np.broadcast_to(np.arange(1, len(rows) + 1)[:, None], rows.shape)
            else:
                latest_first = state[name].numpy()
            if latest_first.shape != rows.shape:
                raise ValueError(f"window.{name} has the shape {latest_first.shape}, not {rows.shape}")
            rows[-np.arange(len(rows))] = latest_first

    def _rows(self) -> dict[str, np.ndarray]:
        names = ("observations", "actions", "rewards", "durations", "open")
        return {name: getattr(self, name) for name in names}


def _rows(ring: np.ndarray, places: np.ndarray) -> torch.Tensor:
    """Entries (B, k) of a ring (n_step, n, k)."""
    return torch.from_numpy(ring.reshape(-1, ring.shape[-1]).take(places, axis=0))


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
        fields = [field for field in transitions if isinstance(field, torch.Tensor)]
        columns = [field.view(count, width) for field, width in zip(fields, self.widths, strict=True)]
        new = torch.cat(columns, dim=1).to(self.device, non_blocking=True)
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
