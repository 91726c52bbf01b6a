"""Experience with pictures, each of which is stored once: stacks and n-step returns are made on sampling.

Each environment has a ring of places. A decision takes one: the picture it was made from, and its action,
reward and duration. An episode of T decisions takes T + 1, the last of them without an action: so a truncated
episode's real last picture is there. Returns and discounts are those of `sac.replay_buffer.NStepWindow`.
"""

from pathlib import Path

import numpy as np
import torch

from common.errors import UserError
from common.memory import check_fits
from envs.interfaces import Observations, PixelObservations, Step, Symmetry
from sac.frame_chunks import load_chunks, save_chunks
from sac.frames import gather, gather_on
from sac.replay_buffer import Batch, Pixels

BYTES_BESIDE = 29  # of a place, beside its picture, numbers and action


def frame_bytes(capacity: int, picture: tuple[int, int, int]) -> int:
    """Memory of so many pictures (H, W, C) uint8."""
    return capacity * int(np.prod(picture))


class FrameReplay:
    """The latest `capacity` pictures, from which transitions are sampled uniformly.

    Args:
        capacity: in pictures of all environments together; the oldest are overwritten.
        num_envs: environments, each with its share of the capacity.
        picture: (H, W, C) of one.
        stack: pictures that a network sees.
        observation_size, action_size: D numbers beside the pictures, A.
        n_step, gamma: of the returns; gamma counts environment steps.
        device: where the pictures live and batches are made; what is beside them is on the CPU.
        shift: the random shift is up to so many pixels to each side; 0: none.
        brightness: pictures are multiplied by a random number up to so far from 1; 0: they are not.
        symmetry: of numbers and actions; half of each batch is mirrored, pictures left to right.
        views, target_views: rows of each observation and of each next one in a batch, all first views before
            all second ones, which differ in their random shifts and brightness.

    Raises:
        UserError: the pictures do not fit into the memory, or are too few for an n-step return.
    """

    def __init__(
        self,
        capacity: int,
        num_envs: int,
        picture: tuple[int, int, int],
        stack: int,
        observation_size: int,
        action_size: int,
        n_step: int,
        gamma: float,
        device: torch.device | str = "cpu",
        shift: int = 0,
        symmetry: Symmetry | None = None,
        views: int = 1,
        target_views: int = 1,
        brightness: float = 0.0,
    ) -> None:
        _check_capacity(capacity, num_envs, n_step, stack)
        self.ring = capacity // num_envs
        self.device = torch.device(device)
        beside = capacity * (BYTES_BESIDE + 4 * (observation_size + action_size))
        _check_memory(capacity, picture, beside if self.device.type == "cpu" else 0, self.device)
        self.stack, self.n_step, self.gamma = stack, n_step, np.float32(gamma)
        self.shift, self.symmetry, self.brightness = shift, symmetry, brightness
        self.views, self.target_views = views, target_views

        shape = num_envs, self.ring
        self.frames = torch.zeros(num_envs * self.ring, *picture, dtype=torch.uint8, device=device)
        self.numbers = np.zeros((*shape, observation_size), np.float32)
        self.actions = np.zeros((*shape, action_size), np.float32)
        self.rewards = np.zeros(shape, np.float32)
        self.durations = np.zeros(shape, np.int64)  # environment steps
        self.terminated = np.zeros(shape, bool)
        self.age = np.zeros(shape, np.int32)  # decisions since the episode's start
        self.steps = np.zeros(shape, np.int32)  # decisions in the return from here; 0: not to be drawn
        self.serial = np.full(shape, -1, np.int64)  # which of all pictures ever stored; -1: none yet
        self.written = np.zeros(num_envs, np.int64)  # pictures ever, of each environment
        self.position = 0  # pictures ever
        self.size = 0  # transitions that can be drawn
        self._batches: dict[tuple[str, int], torch.Tensor] = {}  # memory of former ones

    def add(
        self,
        observations: Observations,
        actions: np.ndarray,
        step: Step,
        next_observations: Observations,
    ) -> None:
        """Store one decision of every environment.

        Args:
            observations: before it. They are stored at the first call; later ones go on from the call before.
            actions: (n, A).
            step: what came of it; its `observations` are PixelObservations.
            next_observations: from which the next decision is made: a new episode's where one ended.
        """
        assert isinstance(observations, PixelObservations) and isinstance(
            step.observations, PixelObservations
        )
        envs = np.arange(len(self.written))
        if not self.position:
            self._append(envs, observations, 0)
        now = (self.written - 1) % self.ring
        self.actions[envs, now], self.rewards[envs, now] = actions, step.rewards
        self.durations[envs, now], self.terminated[envs, now] = step.durations, step.terminated
        age = self.age[envs, now]
        self._append(envs, step.observations, age + 1)

        ended = step.terminated | step.truncated
        begun = np.flatnonzero(ended)
        self._append(begun, PixelObservations(*(part[begun] for part in next_observations)), 0)
        for before in range(self.n_step):  # decisions whose return is complete now
            complete = np.flatnonzero((age >= before) & (ended | (before == self.n_step - 1)))
            self.steps[complete, (now[complete] - before) % self.ring] = before + 1
            self.size += len(complete)

    def _append(self, envs: np.ndarray, observations: PixelObservations, age: np.ndarray | int) -> None:
        """Store the newest picture of each of these environments (k,) over its oldest one."""
        places = self.written[envs] % self.ring
        self._forget(envs, places)
        pictures = np.ascontiguousarray(observations.pixels[..., -self.frames.shape[-1] :])
        flat = torch.from_numpy(envs * self.ring + places).to(self.device)
        self.frames.index_copy_(0, flat, torch.from_numpy(pictures).to(self.device))
        self.numbers[envs, places], self.age[envs, places] = observations.numbers, age
        self.serial[envs, places] = self.position + np.arange(len(envs))
        self.position += len(envs)
        self.written[envs] += 1
        for later in range(self.stack - 1):  # stacks that reach over the write head
            oldest = (self.written[envs] + later) % self.ring
            broken = self.age[envs, oldest] > later
            self._forget(envs[broken], oldest[broken])

    def _forget(self, envs: np.ndarray, places: np.ndarray) -> None:
        """Draw no transition from there any more."""
        self.size -= np.count_nonzero(self.steps[envs, places])
        self.steps[envs, places] = 0

    def sample(self, batch_size: int, generator: torch.Generator) -> Batch:
        """`batch_size` transitions with replacement.

        The memory of their pictures is that of the next batch of this size.

        Args:
            generator: of any device; one of the CPU does not wait for a GPU.

        Raises:
            ValueError: there is none yet.
        """
        envs, places = self._draw(batch_size, generator)
        actions = self.actions[envs, places]
        rewards, discounts, ends = self._returns(envs, places)
        if self.symmetry:
            half = batch_size // 2
            actions[:half] = actions[:half][:, self.symmetry.action_order] * self.symmetry.action_signs
        return Batch(
            observations=self._see("observations", envs, places, self.views, generator),
            actions=torch.from_numpy(actions).to(self.device),
            rewards=torch.from_numpy(rewards).to(self.device),
            next_observations=self._see("next_observations", envs, ends, self.target_views, generator),
            discounts=torch.from_numpy(discounts).to(self.device),
        )

    def _draw(self, count: int, generator: torch.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Environments and places (count,) of complete returns: drawn from all places, others refused."""
        if not self.size:
            raise ValueError("no transition is complete yet")
        up_to = np.minimum(self.written, self.ring).cumsum()  # places in use of the environments before
        held, found, missing = int(up_to[-1]), [], count
        while missing > 0:
            enough = int(1.1 * missing * held / self.size) + 16
            drawn = torch.randint(held, (enough,), generator=generator, device=generator.device).cpu().numpy()
            envs = np.searchsorted(up_to, drawn, side="right")
            drawn += self.ring * envs - (up_to - np.minimum(self.written, self.ring))[envs]
            found.append(drawn[self.steps.reshape(-1)[drawn] > 0][:missing])
            missing -= len(found[-1])
        envs, places = np.divmod(np.concatenate(found), self.ring)
        return envs, places

    def _returns(self, envs: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Of transitions that begin there: rewards, discounts, and the places (B,) where they end."""
        steps = self.steps[envs, places]
        rewards, durations = np.zeros(len(envs), np.float32), np.zeros(len(envs), np.int64)
        for later in range(self.n_step):
            at, within = (places + later) % self.ring, later < steps
            reward = self._discount(durations) * self.rewards[envs, at]
            rewards += np.where(within, reward, np.float32(0))
            durations += np.where(within, self.durations[envs, at], 0)
        terminated = self.terminated[envs, (places + steps - 1) % self.ring]
        return rewards, self._discount(durations) * ~terminated, (places + steps) % self.ring

    def _discount(self, durations: np.ndarray) -> np.ndarray:
        return self.gamma ** durations.astype(np.float32)

    def _see(
        self, name: str, envs: np.ndarray, places: np.ndarray, views: int, generator: torch.Generator
    ) -> Pixels:
        """What a network sees there, in so many views; `name` says whose memory is used."""
        before = np.arange(self.stack)[::-1]
        back = np.minimum(before, self.age[envs, places][:, None])  # no further than to the first picture
        stacks = (envs * self.ring)[:, None] + (places[:, None] - back) % self.ring  # (B, S)
        numbers, mirrored = self.numbers[envs, places], np.zeros(len(envs), bool)
        if self.symmetry:
            mirrored[: len(envs) // 2] = True
            swapped = numbers[mirrored][:, self.symmetry.observation_order]
            numbers[mirrored] = swapped * self.symmetry.observation_signs

        rows = views * len(envs)
        shifts = torch.zeros(rows, 2, dtype=torch.int64)
        if self.shift:
            bounds = -self.shift, self.shift + 1
            shifts = torch.randint(*bounds, (rows, 2), generator=generator, device=generator.device).cpu()
        pixels = self._pixels(name, np.tile(stacks, (views, 1)), shifts.numpy(), np.tile(mirrored, views))
        if self.brightness:
            factors = torch.rand(rows, 1, 1, 1, generator=generator, device=generator.device)
            pixels *= (1 + self.brightness * (2 * factors - 1)).to(self.device)
        seen = torch.from_numpy(np.tile(numbers, (views, 1))).to(self.device)
        return Pixels(pixels.permute(0, 3, 1, 2), seen)

    def _pixels(
        self, name: str, stacks: np.ndarray, shifts: np.ndarray, mirrored: np.ndarray
    ) -> torch.Tensor:
        """Stacks (R, S) of places as (R, H, W, S * C) float32 in [0, 1]."""
        if self.device.type != "cpu":
            return gather_on(self.frames, stacks, shifts, mirrored)
        key = name, len(stacks)
        if key not in self._batches:
            height, width, colours = self.frames.shape[1:]
            self._batches[key] = torch.empty(len(stacks), height, width, self.stack * colours)
        out = self._batches[key]
        gather(self.frames.numpy(), stacks, shifts, mirrored, out.numpy())
        return out

    def size_in_words(self) -> str:
        """What the pictures take in memory."""
        return f"{len(self.frames):,} pictures, {self.frames.nbytes / 1e9:,.2f} GB"

    def full_bytes(self, decisions: int) -> int:
        """What it takes in a checkpoint after that many decisions, but for the last pictures of episodes."""
        filled = min(1.0, decisions / len(self.frames))
        return int(filled * (self.frames.nbytes + sum(array.nbytes for array in self._arrays().values())))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All but the pictures, for which there is `save_frames`."""
        used = min(int(self.written.max()), self.ring)
        arrays = {name: array[:, :used] for name, array in self._arrays().items()}
        arrays["written"] = self.written
        return {f"replay.{name}": torch.from_numpy(array) for name, array in arrays.items()}

    def load_state_dict(self, state: dict[str, torch.Tensor], position: int) -> None:
        """Hold, if empty before, what `state_dict` returned after `position` pictures; `load_frames` follows.

        Raises:
            ValueError: it does not fit, or is none of a replay.
        """
        state = {name.removeprefix("replay."): values for name, values in state.items()}
        _check_state(state, len(self.written), self.ring, self.n_step, position)
        self.written[:] = state["written"].numpy()
        used = min(int(self.written.max()), self.ring)
        for name, array in self._arrays().items():
            values, held = state[name].numpy(), array[:, :used]
            # NumPy would repeat or cast any others.
            if (values.shape, values.dtype) != (held.shape, held.dtype):
                raise ValueError(f"{name} has the shape {values.shape} of {values.dtype}")
            held[:] = values
        self.position, self.size = position, int(np.count_nonzero(self.steps))

    def _arrays(self) -> dict[str, np.ndarray]:
        """What there is of each place (num_envs, ring, ...) beside its picture."""
        names = "numbers", "actions", "rewards", "durations", "terminated", "age", "steps", "serial"
        return {name: getattr(self, name) for name in names}

    def save_frames(self, folder: Path, previous: Path | None) -> None:
        """Write the pictures into a new folder.

        Args:
            previous: the folder of the checkpoint before, whose files are linked as far as they are the same.

        Raises:
            OSError: they cannot be written.
        """
        save_chunks(self.frames, self.serial.reshape(-1), self.position, folder, previous)

    def load_frames(self, folder: Path) -> None:
        """Read the pictures of the state that is loaded.

        Raises:
            UserError: a file is missing, or not as long as it must be.
        """
        load_chunks(self.frames, self.serial.reshape(-1), self.position, folder)


def _check_capacity(capacity: int, num_envs: int, n_step: int, stack: int) -> None:
    least = num_envs * (n_step + stack + 1)  # else stacks are overwritten before their return is complete
    if capacity < least:
        raise UserError(
            f"training.buffer_capacity must be at least {least:,} for {num_envs} environments, an n_step of "
            f"{n_step} and a stack of {stack}, got {capacity:,}"
        )


def _check_memory(
    capacity: int, picture: tuple[int, int, int], beside: int, device: torch.device | str
) -> None:
    pictures = frame_bytes(capacity, picture)
    arithmetic = (
        f"training.buffer_capacity {capacity:,} ({capacity:,} pictures x {' x '.join(map(str, picture))} "
        f"bytes = {pictures / 1e9:,.2f} GB, and {beside / 1e9:,.2f} GB beside them)"
    )
    check_fits(arithmetic, (pictures + beside) // 4, device)


def _check_state(
    state: dict[str, torch.Tensor], num_envs: int, ring: int, n_step: int, position: int
) -> None:
    """Raise ValueError where counts of a state cannot be those of a replay after `position` pictures."""
    written, serial = state["written"].numpy(), state["serial"].numpy()
    if written.shape != (num_envs,) or written.min() < 0 or written.sum() != position:
        raise ValueError(f"the pictures of {num_envs} environments are not {position:,}")
    held = np.arange(serial.shape[-1]) < np.minimum(written, ring)[:, None]
    if serial.shape != held.shape or len(np.unique(serial[held])) != np.minimum(written, ring).sum():
        raise ValueError("pictures are missing, or there twice")
    if position and not (serial[held].min() >= 0 and serial[held].max() < position):
        raise ValueError(f"pictures have numbers that are not below {position:,}")
    for name, most in (("steps", n_step), ("age", position), ("durations", np.inf)):
        if position and not 0 <= state[name].min() <= state[name].max() <= most:
            raise ValueError(f"{name} must be in [0, {most}]")
