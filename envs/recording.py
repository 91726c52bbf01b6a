"""What a task offers so that its episodes can be recorded as a LeRobot dataset (`recording/`).

A task is `Recordable` if it has a `recording`: see the `recording.py` of the tasks that do.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

from common.errors import UserError
from envs.interfaces import Policy, RawObservation, Task, VectorEnv

Features = dict[str, dict[str, Any]]  # LeRobot's description of columns: dtype, shape, names


class RecordableEnv(VectorEnv, Protocol):
    """Its infos have `progress` and `is_success`."""

    def pictures(self, size: int, slots: np.ndarray) -> np.ndarray:
        """What a policy sees, (len(slots), size, size, 3) uint8 RGB; `frames` may have marks on top."""
        ...


class Demonstration(NamedTuple):
    """An episode of T steps that was not recorded here."""

    observations: RawObservation  # (T, ...) each, before each action
    actions: np.ndarray  # (T, A) in the task's units
    rewards: np.ndarray  # (T,)
    progress: np.ndarray  # (T,) after each action
    is_success: np.ndarray  # (T,) bool, after each action
    pictures: list[np.ndarray]  # T of (size, size, 3) uint8 RGB, or none


class DemonstrationFile(Protocol):
    """Demonstrations from elsewhere, all of a file or folder."""

    def __len__(self) -> int: ...

    def read(self, first: int) -> Iterator[Demonstration]:
        """Yield them from number `first` on."""
        ...


class Discard(Exception):
    """The person does not want this episode."""


class Undo(Exception):
    """The person wants neither this episode nor the last one that was saved."""


class Quit(Exception):
    """The person wants no more episodes."""


class HumanPolicy(Policy, Protocol):
    """A person at the controls, in one slot. `act` raises Discard, Undo or Quit."""

    saved: int  # episodes saved so far, to show

    def decide(self) -> None:
        """Time is up: wait until the person saves the episode.

        Raises:
            Discard, Undo, Quit: the person does not.
        """
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class CardTexts:
    """A task's share of a dataset's card."""

    tags: tuple[str, ...]
    license: str  # as the Hub names it
    url: str
    paper: str
    citation: str  # BibTeX
    task: str  # what it is, a sentence
    simulator: str  # where it was recorded, a sentence
    success: str  # what a successful episode has done
    final_success: str  # what successful episodes do at their end
    starts: str  # the environment whose seeds are the starts
    actions: str  # what the statistics of actions call a move from one to the next
    action_axes: tuple[str, ...]
    columns: str  # what actions and states mean, sentences
    demonstrations: str = ""  # who recorded those that are imported; no full stop
    as_recorded: str = ""  # completes that sentence
    hindsight: str = ""  # completes it where they were imported in hindsight


class Recording(Protocol):
    """How a task's episodes become a LeRobot dataset, and how they are replayed.

    A subclass may leave out what has a body here.
    """

    robot_type: str  # LeRobot's name of the robot
    replays_in: str  # the environment in which `collect_dataset.py --verify` replays episodes
    unit: str  # of differences between states and between actions
    ends_at_success: bool  # so that there is nothing to hold; else `resting_actions` hold it
    replay_tolerance: float  # in `unit`: of a replay beside stored float32
    picture_tolerance: float  # of 255, mean over a picture: of that environment's pictures beside stored ones
    import_tolerance: float  # in `unit`: of a replay beside demonstrations from another simulator
    card: CardTexts

    @property
    def action(self) -> dict[str, Any]:
        """The feature `action`, and `sim.action`."""
        ...

    @property
    def simulator(self) -> Features:
        """The feature `sim.state`, if the simulator has a state (S,) from which `draw` makes pictures."""
        return {}

    def observations(self, pictures: bool) -> Features:
        """The features `observation.*`, the picture aside, of a dataset with or without pictures.

        Raises:
            UserError: without pictures there is nothing to act on.
        """
        ...

    def columns(self, observations: RawObservation) -> dict[str, np.ndarray]:
        """Raw observations (T, ...) -> values (T, k) of all features `observation.*` and `simulator`."""
        ...

    def raw_observations(self, stored: dict[str, np.ndarray]) -> RawObservation:
        """The inverse of `columns`: the raw observations (T, ...) that can be made of stored values."""
        ...

    def terminated(self, stored: dict[str, np.ndarray]) -> np.ndarray:
        """Whether the future is worth nothing after each action, (T,) bool; stored values by feature."""
        ...

    def env(self, num_envs: int, image_size: int = 0, hold: int = 0) -> RecordableEnv:
        """The environment to record in.

        Args:
            num_envs: how many.
            image_size: side in pixels of the pictures in the observations; 0: none.
            hold: further steps for which a success has to last before the episode ends.
        """
        ...

    def resting_actions(self, observations: RawObservation) -> np.ndarray:
        """Actions (n, A) that leave everything as it is; not asked for where success ends the episode."""
        raise ValueError("success ends the episode")

    def reset_options(self, state: np.ndarray) -> dict[str, Any]:
        """Options of `VectorEnv.reset`, of one slot, that start from a stored `sim.state` (S,)."""
        raise UserError("its episodes start from seeds, and one of them has none")

    def difference(self, observations: RawObservation, stored: dict[str, np.ndarray], exact: bool) -> float:
        """The largest difference in `unit` between a replay and what is stored of the same moment.

        Args:
            observations: raw, of one slot.
            stored: values (k,) by feature.
            exact: also compare what demonstrations from another simulator have not stored.
        """
        ...

    def draw(self, states: np.ndarray, size: int) -> np.ndarray:
        """Stored states (T, S) -> pictures (T, size, size, 3) uint8 RGB."""
        raise ValueError("the simulator's state is not stored")

    def background(self, size: int) -> np.ndarray | None:
        """What is the same in all pictures, (size, size, 3) uint8 RGB, if most of each is."""
        return None

    def human_policy(self, env: RecordableEnv, stop: np.ndarray, episodes: int) -> HumanPolicy:
        """Open the controls for a person.

        Args:
            env: of one slot.
            stop: (1,) bool; True ends the episode with its next step, as it is.
            episodes: that there will be, to show.

        Raises:
            UserError: no person can play here.
        """
        raise UserError("policy must not be human: this task has no controls for a person")

    def demonstrations(self, path: Path, resolution: int, hindsight: bool) -> DemonstrationFile:
        """Open a file of recorded demonstrations.

        Args:
            path: of a file or folder.
            resolution: side in pixels of their pictures; 0: without.
            hindsight: all parts of them, changed so that they succeed.

        Raises:
            UserError: it is not such a file.
        """
        raise UserError(f"{path}: this task has no demonstrations from elsewhere")

    def fingerprint(self, path: Path) -> str:
        """The SHA-256 of such a file.

        Raises:
            UserError: there is none.
        """
        raise UserError(f"{path}: this task has no demonstrations from elsewhere")


@runtime_checkable
class Recordable(Task, Protocol):
    """A task whose episodes can be recorded."""

    recording: ClassVar[Recording]
