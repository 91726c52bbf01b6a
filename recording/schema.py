"""What a recorded frame and a recorded episode hold, and under which names LeRobot finds it.

For PushT names, types and meanings are those of `lerobot/pusht`, or of `lerobot/pusht_keypoints`. Frame t is
the moment before action t; `next.*` is what that action led to; the state after the last action is not
stored. `sim.*` comes on top: LeRobot makes inputs and targets of a policy from names that begin with
`observation` or `action`, so nothing trains on it by mistake.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from lerobot.datasets.compute_stats import get_feature_stats

from common.bounds import Between, NotNegativeEach, Seed, ShareBelow1
from common.errors import UserError
from envs.interfaces import RawObservation, Task
from envs.recording import Features, Recordable
from envs.tasks import DEFAULT, names, task_class

HUMAN, IMPORT = "human", "import"  # policies: a person at the controls, and episodes from elsewhere
IMAGE = "observation.image"
NO_SEED = -1  # of an episode that does not start from a seed


@dataclass(frozen=True)
class Settings:
    """What the episodes of a dataset are, for any policy."""

    RENAMED: ClassVar = {"min_coverage": "min_progress"}

    seed: Seed = 1_000_000  # of the first start; lerobot-eval plays from 1,000, evaluate.py from 100,000
    observations: Literal["pixels", "keypoints"] = "keypoints"  # pictures, or numbers in their place
    resolution: Annotated[int, Between(16, 1024)] = 96  # side of the pictures in pixels
    video: bool = False  # store them as LeRobot's default video, small and lossy, instead of PNG
    sampled: bool = False  # draw actions from the policy's distribution instead of taking its mode
    noise: NotNegativeEach = 0.0  # std in the actions' unit, of all axes or one of each; labels have none
    hold: Annotated[int, Between(0, 10_000)] = 10  # further steps that a success lasts, if it can, to clone
    hindsight: bool = False  # with --import-human: every segment, moved so that it ends in success
    all: bool = False  # keep failures too, marked by next.success
    min_progress: ShareBelow1 = 0.0  # least progress of an episode that is kept: PushT's is its coverage

    def validate(self) -> None:
        if self.video and self.resolution % 2:
            raise ValueError(f"resolution must be even for a video, got {self.resolution}")
        if self.video and self.observations == "keypoints":
            raise ValueError("video must be false with --observations keypoints, which has no pictures")


@dataclass(frozen=True)
class Recipe(Settings):
    """Everything that an episode depends on besides its own seed: equal recipes make equal datasets."""

    task: str = DEFAULT  # see envs/tasks.py
    policy: str = ""  # as it was named; or HUMAN, or IMPORT
    fingerprint: str = ""  # of the policy's files

    @property
    def noisy(self) -> bool:
        """Whether actions were played with noise."""
        return bool(np.any(self.noise))

    @property
    def simulated(self) -> bool:
        """Whether its episodes were played in this simulator, where their replay is exact."""
        return self.policy != IMPORT or self.hindsight

    def accepts(self, success: bool, max_progress: float) -> bool:
        """Whether an episode is kept."""
        return (success or self.all) and max_progress >= self.min_progress


@dataclass
class RecordedEpisode:
    """An episode of T frames as it will be stored; without content, if it is not accepted."""

    seed: int  # of its start, or NO_SEED
    success: bool  # it ended in a success that had lasted for the recipe's `hold`
    max_progress: float  # after any action
    columns: dict[str, np.ndarray] = field(default_factory=dict)  # (T, k) or (T,), no pictures, no indices
    pictures: list[bytes] = field(default_factory=list)  # PNG each; empty with keypoints
    stats: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)  # LeRobot's, without indices
    video: bytes = b""  # the pictures as MP4, when asked for

    @property
    def accepted(self) -> bool:
        return bool(self.columns)

    def __len__(self) -> int:
        return len(self.columns["action"])


def recordable(task: Task) -> Recordable:
    """The task, if it can be recorded.

    Raises:
        UserError: it cannot.
    """
    if not isinstance(task, Recordable):
        raise UserError(
            f"{task.name} cannot be recorded yet: its task has no `recording` (envs/recording.py)"
        )
    return task


def recorded_task(name: str) -> Recordable:
    """The task of this name.

    Raises:
        UserError: there is none, or it cannot be recorded.
    """
    return recordable(task_class(name)())


def name_of(task: Task) -> str:
    """The name by which `envs.tasks` finds a task."""
    return next(name for name, module in names().items() if module == type(task).__module__)


def max_progress_name(task: Task) -> str:
    """The column of `meta/episodes` with an episode's largest progress."""
    return f"max_{task.progress_name}"


def features(task: Recordable, recipe: Recipe) -> Features:
    """LeRobot's description of the stored features, without those that it adds itself.

    Raises:
        UserError: the recipe has noise for another number of axes than the task's actions have.
    """
    axes = tuple(task.recording.action["shape"])
    if np.shape(recipe.noise) not in ((), axes):
        raise UserError(
            f"noise must be one number or {axes[0]}, one for each axis of {task.name}'s actions, "
            f"got {np.size(recipe.noise)}"
        )
    side, pictures = recipe.resolution, recipe.observations == "pixels"
    kind, axes = ("video" if recipe.video else "image"), ["height", "width", "channel"]
    image = {IMAGE: {"dtype": kind, "shape": (side, side, 3), "names": axes}} if pictures else {}
    played = {"sim.action": task.recording.action} if recipe.noisy else {}
    return {
        **image,
        **task.recording.observations(pictures),
        "action": task.recording.action,
        "next.reward": _number("float32"),
        "next.done": _number("bool"),
        "next.success": _number("bool"),
        **task.recording.simulator,
        **played,
    }


def columns(
    task: Recordable,
    recipe: Recipe,
    observations: RawObservation,
    actions: np.ndarray,
    played: np.ndarray,
    rewards: np.ndarray,
    is_success: np.ndarray,
) -> dict[str, np.ndarray]:
    """An episode's values by feature, pictures and indices aside.

    Args:
        task, recipe: say which are stored.
        observations: (T, ...) each, before each action.
        actions: (T, A) what a policy should learn, in the task's units.
        played: (T, A) what the simulator got.
        rewards: (T,) of each action.
        is_success: (T,) bool, after each action.
    """
    steps = len(actions)
    values = task.recording.columns(observations) | {
        "action": actions,
        "next.reward": rewards,
        "next.done": np.arange(steps) == steps - 1,
        "next.success": is_success,
        "sim.action": played,
    }
    wanted = {name: feature for name, feature in features(task, recipe).items() if name != IMAGE}
    stored = {name: values[name].astype(feature["dtype"]) for name, feature in wanted.items()}
    for name, feature in wanted.items():
        if feature["shape"] == (1,):  # LeRobot stores a vector of one number as that number
            stored[name] = stored[name].reshape(steps)
    # Seconds in float64, of which LeRobot makes its statistics; stored they are float32.
    return stored | {"timestamp": np.arange(steps) / task.fps, "frame_index": np.arange(steps)}


def column_stats(values: np.ndarray) -> dict[str, np.ndarray]:
    """LeRobot's statistics of an episode's values (T,) or (T, k)."""
    return get_feature_stats(values, axis=0, keepdims=values.ndim == 1)


def _number(dtype: str) -> dict[str, Any]:
    return {"dtype": dtype, "shape": (1,), "names": None}
