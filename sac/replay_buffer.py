"""Experience in preallocated tensors on one device, written and sampled without loops over transitions.

n-step returns are made on the way in: a transition waits in a window of n until its return is complete. So a
window never crosses the write head or an episode's end, and sampling is one gather.
"""

from typing import NamedTuple

import numpy as np
import torch

from common.errors import UserError, reason


class Batch(NamedTuple):
    """Transitions over up to n steps. There is no `done`: `discounts` says what the future is worth."""

    observations: torch.Tensor  # (B, D)
    actions: torch.Tensor  # (B, A)
    rewards: torch.Tensor  # (B,) discounted sum over the steps
    next_observations: torch.Tensor  # (B, D) after the last of them
    discounts: torch.Tensor  # (B,) gamma^steps, or 0 where the episode terminated


class NStepWindow:
    """Transitions of `num_envs` environments whose n-step return is not complete yet.

    Row s of each array holds what began s steps ago.
    """

    _FIELDS = ("observations", "actions", "rewards", "open")

    def __init__(
        self, num_envs: int, observation_size: int, action_size: int, n_step: int, gamma: float
    ) -> None:
        self.observations = np.zeros((n_step, num_envs, observation_size), np.float32)
        self.actions = np.zeros((n_step, num_envs, action_size), np.float32)
        self.rewards = np.zeros((n_step, num_envs), np.float32)
        self.open = np.zeros((n_step, num_envs), bool)
        self._gamma_powers = np.float32(gamma) ** np.arange(n_step + 1, dtype=np.float32)

    def add(
        self,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        next_observations: np.ndarray,
        terminated: np.ndarray,
        truncated: np.ndarray,
    ) -> Batch:
        """Take one step of every environment; return the transitions that it completed, oldest first."""
        for rows, new in (
            (self.observations, observations),
            (self.actions, actions),
            (self.rewards, np.float32(0)),
            (self.open, True),
        ):
            rows[1:] = rows[:-1].copy()
            rows[0] = new
        self.rewards += self._gamma_powers[:-1, None] * rewards.astype(np.float32)

        complete = self.open & (terminated | truncated)
        complete[-1] |= self.open[-1]
        self.open &= ~complete
        age, env = np.nonzero(complete[::-1])
        age = len(complete) - 1 - age
        completed = Batch(
            observations=self.observations[age, env],
            actions=self.actions[age, env],
            rewards=self.rewards[age, env],
            next_observations=next_observations[env],
            discounts=self._gamma_powers[age + 1] * ~terminated[env],
        )
        return Batch(*(torch.from_numpy(rows) for rows in completed))

    def state_dict(self) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(getattr(self, name)) for name in self._FIELDS}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        for name in self._FIELDS:
            getattr(self, name)[:] = state[name].numpy()


class ReplayBuffer:
    """The last `capacity` transitions, sampled uniformly.

    Args:
        capacity: in transitions; the oldest are overwritten.
        device: where the tensors live and batches are gathered.
        symmetry: of the task, as `envs.pusht.symmetry.Symmetry`: half of each batch is drawn as its mirror image.

    Raises:
        UserError: that many do not fit into the memory.
    """

    def __init__(
        self,
        capacity: int,
        observation_size: int,
        action_size: int,
        device: torch.device | str = "cpu",
        symmetry: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None = None,
    ) -> None:
        self.capacity = capacity
        self.position = 0  # where the next transition goes
        self.size = 0
        self.device = torch.device(device)
        self.symmetry = symmetry and [torch.from_numpy(array).to(self.device) for array in symmetry]
        sizes = Batch((observation_size,), (action_size,), (), (observation_size,), ())
        try:
            self.storage = Batch(*(torch.zeros(capacity, *size, device=device) for size in sizes))
        except RuntimeError as error:  # out of memory has no class of its own on the CPU
            raise UserError(
                f"buffer_capacity {capacity:,} does not fit into the memory: {reason(error)}"
            ) from None

    def add(self, transitions: Batch) -> None:
        """Store transitions, at most `capacity`, over the oldest ones."""
        count = len(transitions.rewards)
        rows = (self.position + torch.arange(count)) % self.capacity
        rows = rows.to(self.device, non_blocking=True)
        for stored, new in zip(self.storage, transitions, strict=True):
            stored[rows] = new.to(self.device, non_blocking=True)
        self.position = (self.position + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """`batch_size` transitions with replacement, drawn by a generator of the buffer's device."""
        rows = torch.randint(self.size, (batch_size,), device=self.device, generator=generator)
        batch = Batch(*(stored[rows] for stored in self.storage))
        if self.symmetry:
            self._mirror(batch, batch_size // 2)
        return batch

    def _mirror(self, batch: Batch, count: int) -> None:
        """Put the mirror images of the first `count` transitions in their place."""
        observation_order, observation_signs, action_order, action_signs = self.symmetry
        for observations in (batch.observations, batch.next_observations):
            observations[:count] = observations[:count, observation_order] * observation_signs
        batch.actions[:count] = batch.actions[:count, action_order] * action_signs

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The filled rows, by field."""
        return {name: rows[: self.size] for name, rows in self.storage._asdict().items()}

    def load_state_dict(self, state: dict[str, torch.Tensor], position: int) -> None:
        """Hold what `state_dict` returned; the next transition goes to row `position`."""
        self.position, self.size = position, len(state["rewards"])
        for name, rows in self.storage._asdict().items():
            rows[: self.size] = state[name]
