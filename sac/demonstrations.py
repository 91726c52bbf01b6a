"""Demonstrations first: updates from a LeRobot dataset before the first step, and a share of each batch then.

RLPD, Ball et al. 2023, "Efficient Online Reinforcement Learning with Offline Data" (arXiv:2302.02948): half
of each batch is drawn from the demonstrations. Its updates all come after the first environment step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.bounds import NotNegative, Share, Steps
from common.errors import UserError, show
from common.lerobot_files import INFO, NOTES, check_extremes, numbers, parquet_files, read_table, reading
from common.paths import expanded
from common.untrusted import digest, load_json
from envs.demonstrations import Conversion, DemonstratedEpisode
from envs.interfaces import RawObservation, Task
from envs.recording import Recordable
from envs.steering import SteeringEnv
from envs.summary import has_success
from envs.tasks import FORMER, task_class
from envs.training import TaskTrainingEnv
from sac.config import AgentConfig
from sac.replay import Replay, make_replay
from sac.replay_buffer import Batch, Pixels
from sac.smoothing import RewardSmoothing

Drawn = tuple[Batch, torch.Tensor | None]  # and how much each of its actions is imitated, see `SAC.update`
PIXELS = "pixels"  # the raw observation that is a picture


@dataclass(frozen=True)
class OfflineConfig:
    """What is learnt from demonstrations."""

    dataset: str = ""  # folder of a LeRobot dataset of the task; empty: none
    steps: Steps = 0  # updates before the first environment step
    share: Share = 0.5  # of each batch afterwards
    until: Steps = 0  # environment steps for which that lasts; 0: always
    imitation: NotNegative = 0.0  # weight of the distance to their actions in the actor's loss

    def validate(self) -> None:
        for name in ("steps", "until", "imitation"):
            if getattr(self, name) and not self.dataset:
                raise ValueError(f"{name} must be 0 without offline.dataset, got {getattr(self, name)}")


class OfflineData:
    """A dataset, held in the memory.

    Args:
        config: which, and how it is mixed in.
        task: that it must be of.
        env: gives the learner's reward.
        agent: settings of returns and pictures.
        device: where batches are made.
        steered: what is trained in, where the decisions are chunks of a steered policy; None: the codec's.

    Raises:
        UserError: it is damaged, empty, of another task, lacks something, or does not fit into the memory.
    """

    def __init__(
        self,
        config: OfflineConfig,
        task: Task,
        env: TaskTrainingEnv,
        agent: AgentConfig,
        device: torch.device | str,
        steered: SteeringEnv | None = None,
    ) -> None:
        aliasing = steered.aliasing if steered else None
        self.config = config
        self.device = device
        codec = task.codec(1)
        if not aliasing and not all(
            hasattr(each, "encode_actions") for each in (codec, getattr(codec, "inner", codec))
        ):
            raise UserError(
                f"offline.dataset must be empty: {task.name} cannot turn recorded actions into those of a "
                "network, because its codec has no encode_actions (envs/interfaces.py)"
            )
        reader = DatasetReader(expanded(config.dataset), task, env)
        self.fingerprint = reader.fingerprint()
        self.episodes = len(reader.lengths)
        self.conversion = Conversion(codec, env, aliasing)
        self.replay = self._make_replay(reader, steered or env, agent)
        smoothing = RewardSmoothing(agent.reward_smoothing, num_envs=1)
        try:
            for decision in self.conversion(reader.episodes()):
                self.replay.add(*decision._replace(step=smoothing(decision.step)))
        except KeyError as error:
            raise UserError(
                f"{config.dataset}: it has no {error.args[0]}, which {task.name} needs with these settings; "
                "collect_dataset.py records it"
            ) from None
        if not self.replay.size:
            raise UserError(f"{config.dataset}: its episodes are too short, there is no transition in them")

    def _make_replay(
        self, reader: "DatasetReader", env: TaskTrainingEnv | SteeringEnv, agent: AgentConfig
    ) -> Replay:
        """With room for all of the dataset, and not more."""
        aliasing, lengths = self.conversion.aliasing, reader.lengths
        decisions = int(lengths.sum() if aliasing else (-(-lengths // self.conversion.steps)).sum())
        pictures = decisions + len(lengths) + 1  # also of each end, and of the start that would follow
        room = max(pictures, agent.n_step + env.stack + 1)
        action_size = aliasing.executed_size if aliasing else None
        try:
            return make_replay(env, room, agent, self.device, num_envs=1, action_size=action_size)
        except UserError as error:
            raise UserError(f"{reader.root}, in place of buffer_capacity: {error}") from None

    def __str__(self) -> str:
        made, spoilt = self.conversion, []
        if made.clipped:
            spoilt.append(f"{made.clipped:,} of their actions clipped")
        if made.averaged:
            spoilt.append(f"{made.averaged:,} averaged over env.action_repeat")
        counts = f"{self.episodes:,} episodes, {made.decisions:,} decisions of {self.config.dataset}"
        return ", ".join([counts, *spoilt])

    def sample(self, batch_size: int, generator: torch.Generator) -> Drawn:
        """A batch of demonstrations."""
        return self.replay.sample(batch_size, generator), self._imitation(batch_size, batch_size)

    def mixed(self, replay: Replay, batch_size: int, env_steps: int, generator: torch.Generator) -> Drawn:
        """A batch of the training's own replay and, up to `until`, of demonstrations, which are its last."""
        over = 0 < self.config.until <= env_steps
        ours = 0 if over else round(self.config.share * batch_size)
        parts = [(replay, batch_size - ours), (self.replay, ours)]
        batch = joined([source.sample(count, generator) for source, count in parts if count])
        return batch, self._imitation(batch_size, ours)

    def _imitation(self, batch_size: int, ours: int) -> torch.Tensor | None:
        """How much the actor imitates each action of a batch whose last `ours` are demonstrated."""
        if not self.config.imitation:
            return None
        weights = torch.zeros(batch_size, device=self.device)
        weights[batch_size - ours :] = self.config.imitation
        return weights


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches below each other; of several views, all first ones before all second ones."""
    if len(batches) == 1:
        return batches[0]
    sizes = [len(batch.rewards) for batch in batches]

    def join(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Pixels):
            return Pixels(*(join(several) for several in zip(*parts, strict=True)))
        views = [part.split(size) for part, size in zip(parts, sizes, strict=True)]
        return torch.cat([part for of_one in zip(*views, strict=True) for part in of_one])

    return Batch(*(join(parts) for parts in zip(*batches, strict=True)))


class DatasetReader:
    """Reads a LeRobot dataset episode by episode, in a task's terms.

    Raises:
        UserError: it is damaged, empty, or of another task.
    """

    def __init__(self, root: Path, task: Task, env: TaskTrainingEnv) -> None:
        # LeRobot takes seconds to import
        from act.dataset import DatasetConfig, episodes_of, open_dataset, stats_of

        self.root, self.task = root, task
        _check_task(root, task)
        self.meta = open_dataset(DatasetConfig(root, imagenet_stats=False), task)
        self.lengths = np.array(episodes_of(self.meta)["length"])  # frames
        self.stats = stats_of(self.meta)
        spaces = env.env.single_observation_space.spaces
        self.raw_names = {
            feature: name
            for feature, name in task.lerobot_names.items()
            if feature in self.meta.features and name in spaces
        }
        for feature, name in self.raw_names.items():
            self._check_shape(feature, name, spaces[name].shape)
        self.raw_shapes = {name: spaces[name].shape for name in self.raw_names.values()}

    def _check_shape(self, feature: str, name: str, wanted: tuple[int, ...]) -> None:
        shape = tuple(self.meta.features[feature]["shape"])
        if name == PIXELS and wanted not in (shape, (*shape[1:], shape[0])):
            raise UserError(
                f"{self.root}: its pictures are of shape {shape}, those of the training {wanted}: "
                f"record with --resolution {wanted[0]}, or change env.pixels.size"
            )
        if name != PIXELS and np.prod(shape) != np.prod(wanted):
            raise UserError(
                f"{self.root}: its {feature} must be of shape {wanted}, as {name} of {self.task.name}, "
                f"got {shape}"
            )

    def fingerprint(self) -> str:
        """The SHA-256 of its frames and of what says where they are."""
        folders = "data", "meta/episodes", "videos"
        files = [path for folder in folders for path in (self.root / folder).rglob("*") if path.is_file()]
        with reading(self.root):
            files = sorted([self.root / INFO, *files])
            return digest((file.relative_to(self.root).as_posix(), file) for file in files)

    def episodes(self) -> Iterator[DemonstratedEpisode]:
        """Its episodes in their order.

        Raises:
            UserError: a value is missing, is no number, or a picture is damaged.
        """
        with reading(self.root):
            stored = self._columns()
        cameras = [feature for feature, name in self.raw_names.items() if name == PIXELS]
        pictures = self._pictures(cameras[0]) if cameras else None
        begin = 0
        for length in self.lengths:
            values = {name: rows[begin : begin + length] for name, rows in stored.items()}
            raw = self._raw(values)
            if pictures:
                raw[PIXELS] = next(pictures)
            succeeded = values.get("next.success", np.zeros(length, bool))
            terminated = succeeded
            if isinstance(self.task, Recordable):
                terminated = self.task.recording.terminated(values)
            actions = values.get("sim.action", values["action"])  # `action` is the label, without noise
            yield DemonstratedEpisode(raw, actions, values["next.reward"], succeeded, terminated)
            begin += length

    def _columns(self) -> dict[str, np.ndarray]:
        """All numbers by feature, (N, k); rewards and successes (N,)."""
        features = [feature for feature, name in self.raw_names.items() if name != PIXELS]
        features += ["action", "next.reward", *(["next.success"] if has_success(self.task) else [])]
        features += [
            name for name in ("sim.state", "sim.action", "next.success") if name in self.meta.features
        ]
        columns: dict[str, list[np.ndarray]] = {name: [] for name in features}
        for name in columns:
            if name not in self.meta.features:
                raise UserError(f"{self.root}: it has no {name}; collect_dataset.py records it")
        for file in parquet_files(self.root / "data"):
            table = read_table(file, list(columns))
            for name, parts in columns.items():
                (size,) = self.meta.features[name]["shape"]
                parts.append(numbers(table, name, size))
        stored = {name: np.concatenate(parts) for name, parts in columns.items()}
        for name, rows in stored.items():
            if not np.isfinite(rows).all():
                raise ValueError(f"{name} is not finite everywhere")
            check_extremes(name, rows, self.stats.get(name, {}))
        flat = {name: stored[name][:, 0] for name in ("next.reward", "next.success") if name in stored}
        return stored | flat

    def _raw(self, values: dict[str, np.ndarray]) -> RawObservation:
        if isinstance(self.task, Recordable):
            return self.task.recording.raw_observations(values)
        vectors = {feature: name for feature, name in self.raw_names.items() if name != PIXELS}
        return {
            name: values[feature].reshape(-1, *self.raw_shapes[name]) for feature, name in vectors.items()
        }

    def _pictures(self, camera: str) -> Iterator[np.ndarray]:
        """Those of each episode, (T, height, width, 3) uint8 RGB."""
        from act.dataset import stored_pictures

        with reading(self.root):
            waiting = np.empty((0, 0), np.uint8)
            source = stored_pictures(self.meta, camera, self.lengths)
            for length in self.lengths:
                parts = [waiting] if len(waiting) else []
                while sum(map(len, parts)) < length:
                    parts.append(next(source))
                several = np.concatenate(parts)
                waiting = several[length:]
                yield np.ascontiguousarray(several[:length].transpose(0, 2, 3, 1))


def _check_task(root: Path, task: Task) -> None:
    """Raise UserError where collect_dataset.py recorded another task."""
    if not (root / NOTES).is_file():
        return
    recipe = load_json(root / NOTES).get("recipe", {})
    name = recipe.get("task", FORMER) if isinstance(recipe, dict) else None
    if not isinstance(name, str):
        raise UserError(f"{root / NOTES}: recipe.task must be a name, got {show(name)}")
    if task_class(name) not in type(task).mro():
        raise UserError(f"{root}: this dataset is of task {name}, not of {task.name}")
