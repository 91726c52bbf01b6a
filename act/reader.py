"""Reads a LeRobot dataset episode by episode, in a task's terms, with its rewards and ends."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from act.dataset import DatasetConfig, episodes_of, open_dataset, stats_of, stored_pictures
from common.errors import UserError, show
from common.lerobot_files import INFO, NOTES, check_extremes, numbers, parquet_files, read_table, reading
from common.untrusted import digest, load_json
from envs.demonstrations import DemonstratedEpisode
from envs.interfaces import PIXELS, RawObservation, Task, VectorEnv
from envs.recording import Recordable
from envs.summary import has_success
from envs.tasks import FORMER, task_class


class DatasetReader:
    """A dataset, see `envs.demonstrations.Demonstrations`.

    Args:
        root: its folder.
        task: that it must be of.
        env: of the task; its raw observations are wanted.

    Raises:
        UserError: it is damaged, empty, or of another task.
    """

    def __init__(self, root: Path, task: Task, env: VectorEnv) -> None:
        self.root, self.task = root, task
        _check_task(root, task)
        self.meta = open_dataset(DatasetConfig(root, imagenet_stats=False), task)
        self.lengths = np.array(episodes_of(self.meta)["length"])  # frames
        self.stats = stats_of(self.meta)
        spaces = env.single_observation_space.spaces
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
