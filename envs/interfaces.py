"""The shapes that hold the repository together.

    Task            which environment, how it is measured, how a learner meets it: a configuration
    VectorEnv       plays: evaluation, recording, training
    Policy          acts on raw observations: SAC, ACT, a script, a person
    Codec           raw observations -> network inputs, network outputs -> the task's actions
    TrainingEnv     what an off-policy learner steps
    Episode         what `envs.rollout.rollout` yields

`envs/tasks.py` finds a task by its name; `docs/add_a_task.md` adds one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol, runtime_checkable

import numpy as np

if TYPE_CHECKING:
    import torch

RawObservation = dict[str, np.ndarray]  # (n, ...) each, in the simulator's units
Infos = dict[str, np.ndarray]  # (n,) each


class PixelObservations(NamedTuple):
    """What a network sees of n slots, where it sees pictures."""

    pixels: np.ndarray  # (n, H, W, S * C) uint8: a stack of S pictures of C colours, the newest last
    numbers: np.ndarray  # (n, D) float32 beside them; D may be 0


PIXELS = "pixels"  # the raw observation that is a picture
Observations = np.ndarray | PixelObservations  # what a network sees; without pictures (n, D) float32


class VectorEnv(Protocol):
    """`num_envs` environments without autoreset: every seed is the caller's.

    Infos, (n,) each and optional: `is_success` bool; `progress` in [0, 1], the share that is done.
    """

    num_envs: int
    single_observation_space: Any  # `gymnasium.spaces.Dict` of RawObservation, one row
    single_action_space: Any  # `gymnasium.spaces.Box` (A,), the task's units
    active: np.ndarray  # (n,) bool: the episode has begun and not ended; the caller may set it to False
    watched: np.ndarray  # (n,) bool: whose "pixels" the caller needs after the next step, see `step`

    def reset(
        self, *, seed: Sequence[int] | np.ndarray, options: dict[str, Any] | None = None
    ) -> tuple[RawObservation, Infos]:
        """Begin episodes where `options["reset_mask"]` (n,) bool says so; everywhere without one.

        `options["states"]` (n, S), where the environment can: start states instead of the seeds', in the rows
        without NaN. The infos are those of the starts.
        """
        ...

    def step(self, actions: np.ndarray) -> tuple[RawObservation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        """Step the active environments with actions (n, A); the others keep their state.

        "pixels" may be earlier ones where `watched` is False, unless the episode ends: drawing takes longer
        than some physics. `reset` draws all that begin. The caller sets `watched`, everywhere True at first.

        Returns:
            observations, rewards (n,), terminated (n,), truncated (n,), infos.
        """
        ...

    def frames(self, size: int, slots: np.ndarray) -> np.ndarray:
        """Pictures (len(slots), size, size, 3) uint8 RGB, for videos."""
        ...


class Policy(Protocol):
    """Anything that acts: an expert, a clone, a script, a person at the controls."""

    n_action_steps: int  # environment steps per decision
    image_size: int  # side in pixels of the pictures in its observations; 0: none
    history: int  # latest observations that it sees

    def seed_slots(self, seeds: Sequence[int]) -> None:
        """Give each slot a random generator of its own, so that its episode does not depend on the others."""
        ...

    def reset(self, slots: np.ndarray) -> None:
        """Forget what is remembered of these slots (k,) int, where new episodes begin."""
        ...

    def act(self, observations: RawObservation) -> np.ndarray:
        """Raw observations of n slots -> actions (n, A) in the task's units."""
        ...


class Stochastic(Policy, Protocol):
    """A policy that can draw its actions."""

    sampled: bool  # it does; False: noise 0, or the mode; the caller may change it


@runtime_checkable
class Steerable(Stochastic, Protocol):
    """A generative policy whose noise can be chosen; drawn noise is of N(0, I)."""

    sees: tuple[str, ...]  # names of the raw observations that it looks at
    noise_shape: tuple[int, ...]  # of one chunk
    chunk_size: int  # T, actions of a chunk

    def chunk(self, observations: RawObservation, noise: np.ndarray) -> np.ndarray:
        """Raw observations of n slots and noise (n, *noise_shape) -> actions (n, T, A), the task's units.

        Observations are (n, ...) each; with a `history` of several (n, history, ...), oldest first.
        """
        ...

    def inputs(self, observations: RawObservation) -> np.ndarray:
        """What its network sees of them, where it sees no pictures: (n, F) float32."""
        ...

    def chunk_of(self, inputs: "torch.Tensor", noise: "torch.Tensor") -> "torch.Tensor":
        """`chunk`, of inputs (B, F) and noise (B, *noise_shape): (B, T, A), without a gradient."""
        ...


class Codec(Protocol):
    """What lies between a task and a network, with what it remembers of each slot.

    Training and playing use the same one, so a policy meets what it was trained on.
    """

    observation_size: int  # D
    pixel_shape: tuple[int, int, int] | None  # (H, W, S * C) of a stack of pictures; None: there is none
    stack: int  # S; 0 without pictures
    action_size: int  # A of the network
    env_steps: float  # of the training so far, on which settings may depend; math.inf: as in its end

    def reset(self, slots: np.ndarray, raw: RawObservation) -> None:
        """Episodes begin in `slots`, (n,) bool; `raw` is their first observation."""
        ...

    def encode(self, raw: RawObservation) -> Observations:
        """Raw observations -> network inputs: (n, D) float32, or pictures and (n, D) float32."""
        ...

    def decode(self, actions: np.ndarray, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        """Network outputs (n, A) in [-1, 1] -> actions in the task's units, and `advance` by them."""
        ...

    def advance(self, chunk: np.ndarray, raw: RawObservation, slots: np.ndarray) -> None:
        """The slots (n,) bool decide now: what is remembered of them goes on by one decision.

        Args:
            chunk: (T, n, A) what is played until their next one, in the task's units.
            raw: what they see now.
            slots: which.
        """
        ...

    def encode_actions(self, actions: np.ndarray, raw: RawObservation) -> np.ndarray:
        """The inverse of `decode`, of actions in the task's units; beyond [-1, 1] where it reaches none."""
        ...

    def state_dict(self) -> dict[str, np.ndarray]:
        """What is remembered, (n, ...) each."""
        ...

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None: ...


class Symmetry(NamedTuple):
    """A mirror image of the task: a mirrored vector is `vector[..., order] * signs`.

    Pictures are flipped left to right.
    """

    observation_order: np.ndarray  # (D,) indices
    observation_signs: np.ndarray  # (D,) float32
    action_order: np.ndarray  # (A,) indices
    action_signs: np.ndarray  # (A,) float32


@runtime_checkable
class MirroredTask(Protocol):
    """A task that is its own mirror image, for imitation learners: what of it is recorded, in the mirror."""

    def mirror_feature(self, name: str, values: np.ndarray, drawn: bool) -> np.ndarray:
        """Values (n, k) of a raw observation, or of `action`, in the mirror; `drawn`: in that of pictures.

        Raises:
            ValueError: there is no mirror image of what has this name.
        """
        ...

    def mirror_pictures(self, pictures: "torch.Tensor") -> "torch.Tensor":
        """Pictures (n, 3, height, width) in the mirror."""
        ...


class Step(NamedTuple):
    """One decision in each of n environments."""

    observations: Observations  # of n environments; an ended episode's last one among them
    rewards: np.ndarray  # (n,) of the learner, discounted within the decision
    terminated: np.ndarray  # (n,) bool: the future is worth nothing
    truncated: np.ndarray  # (n,) bool: the episode ends, the future is worth something
    durations: np.ndarray  # (n,) int, environment steps played; the future counts gamma ** durations
    is_success: np.ndarray | None  # (n,) bool; None: the task has no success
    returns: np.ndarray  # (n,) the task's own reward since the start; NaN where the start was chosen
    executed: np.ndarray | None = None  # (n, C) what the replay holds in place of the actions; None: these


class TrainingEnv(Protocol):
    """What an off-policy learner steps. It acts in [-1, 1]^A."""

    num_envs: int
    decision_steps: int  # environment steps that a decision lasts, but for an episode's last
    observation_size: int  # D
    pixel_shape: tuple[int, int, int] | None  # (H, W, S * C) of a stack of pictures; None: there is none
    stack: int  # S; 0 without pictures
    action_size: int  # A
    symmetry: Symmetry | None

    def reset(self, mask: np.ndarray | None = None) -> Observations:
        """Begin episodes where `mask` (n,) says so, everywhere without one; returns all observations."""
        ...

    def random_actions(self, rng: np.random.Generator) -> np.ndarray:
        """What is played before anything is learnt, (n, A) float32 in [-1, 1]."""
        ...

    def step(self, actions: np.ndarray) -> Step: ...

    def state_dict(self) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """What an exact resume needs: plain values for JSON, and arrays."""
        ...

    def load_state_dict(self, state: dict[str, Any], arrays: dict[str, np.ndarray]) -> Observations:
        """Restore `state_dict`; returns the observations."""
        ...


@dataclass
class Episode:
    """One finished episode of T environment steps."""

    seed: int
    observations: RawObservation  # (T + 1, ...) each; action t answers row t, the last row ends the episode
    actions: np.ndarray  # (T, A) in the task's units
    rewards: np.ndarray  # (T,) the task's own
    # (T + 1,) in [0, 1], if the task has one
    progress: np.ndarray = field(default_factory=lambda: np.empty(0))
    success: bool | None = None  # at the last step; None: the task has no such thing
    frames: np.ndarray | None = None  # (T + 1, size, size, 3) uint8 RGB, when asked for

    def __len__(self) -> int:
        return len(self.actions)


class Motion(NamedTuple):
    """A raw observation that moves from one decision to the next, if any of its numbers does."""

    observation: str
    least: float  # change of a number that is a motion, in its unit


class Metric(NamedTuple):
    """A number of an evaluation, as people read it. TensorBoard has it as `Eval/<name>`."""

    key: str  # in the summary and the JSON
    name: str  # in tables
    form: str = ".1f"  # of its value
    unit: str = ""
    scale: float = 1.0  # multiplies it before
    brief: bool = True  # also in the line that a training prints


class Task(Protocol):
    """A frozen dataclass whose fields are the `env:` of a YAML: the task as a learner meets it."""

    name: ClassVar[str]  # in sentences
    sentence: ClassVar[str]  # the instruction in datasets
    fps: ClassVar[int]  # environment steps per second
    progress_name: ClassVar[str]  # of `Episode.progress`; empty: there is none
    progress_goal: ClassVar[float]  # that counts as success
    must_move: ClassVar[Motion | None]  # whose rest is no success, only a policy that is stuck
    metrics: ClassVar[tuple[Metric, ...]]  # of an evaluation, in the order of tables
    highlights: ClassVar[tuple[str, ...]]  # settings that a training's start-up table shows
    action_settings: ClassVar[tuple[str, ...]]  # settings of what an action means; none with a steered policy
    packages: ClassVar[tuple[str, ...]]  # whose versions an evaluation notes
    lerobot_names: ClassVar[dict[str, str]]  # LeRobot feature -> raw observation, for imitation

    @property
    def num_envs(self) -> int: ...  # environments stepped together in training
    @property
    def action_repeat(self) -> int: ...  # environment steps per decision

    def vector_env(self, num_envs: int, image_size: int = 0, stock: bool = False) -> VectorEnv:
        """The environment that is evaluated; `stock` as its authors published it."""
        ...

    def training_env(self, seed: int, gamma: float, image_size: int = 0) -> TrainingEnv:
        """What is trained in.

        Args:
            seed: of all that is drawn there.
            gamma: discount per environment step.
            image_size: side of the pictures that the learner or the policy that it steers sees; 0: none.
        """
        ...

    def codec(self, num_envs: int) -> Codec: ...

    def scripted_policy(self) -> Policy | None:
        """A policy written by hand, if there is one."""
        ...

    def summarize(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """`envs.summary.summarize`, and what only this task has."""
        ...

    def rank(self, summary: dict[str, Any]) -> tuple[float, ...]:
        """Of several evaluations the largest is the best."""
        ...

    def plot(self, folder: Path, stem: str, episodes: Sequence[Episode], title: str) -> list[Path]:
        """Draw what the episodes look like; returns the PNGs."""
        ...
