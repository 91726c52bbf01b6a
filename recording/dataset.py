"""A LeRobot dataset (v3.0) that grows by whole versions, see `versions.py`.

LeRobot's own writer keeps its files open until `finalize`: killed before, it leaves Parquet without a footer,
and a dataset that nothing opens. Here `append` writes closed files and only then replaces the dataset. What
it writes is what LeRobot would have written, made by LeRobot's functions for schema, statistics and metadata,
except that the frames in a file decide when it is full: so files do not depend on when something was saved.

`meta/recording.json`, which LeRobot ignores, says how the dataset was recorded and where to resume.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.configs import rgb_encoder_defaults
from lerobot.datasets.compute_stats import aggregate_stats
from lerobot.datasets.dataset_metadata import CODEBASE_VERSION
from lerobot.datasets.feature_utils import create_empty_dataset_info, get_hf_features_from_features
from lerobot.datasets.io_utils import load_stats, write_info, write_stats, write_tasks
from lerobot.datasets.video_utils import get_video_info
from lerobot.utils.constants import DEFAULT_FEATURES
from lerobot.utils.utils import flatten_dict
from pandas import DataFrame, Index

from common.checkpoint import save_json
from common.errors import UserError
from common.lerobot_files import INFO, NOTES, STATS, TASKS, parquet_files, read_table
from common.signals import deferring_stop_signals
from common.untrusted import read_text
from envs.recording import Recordable
from recording.files import NumberedFile, extend, extend_rows, extend_video, foreign_file, last_file, shorten
from recording.schema import (
    IMAGE,
    Recipe,
    RecordedEpisode,
    column_stats,
    features,
    max_progress_name,
    recorded_task,
)
from recording.versions import link_all, next_version, remove

FRAMES_PER_FILE = 10_000  # 13 MB of pictures of 96 x 96; the most that an `append` writes again
EPISODES_PER_FILE = 1_000
SUMMARY = INFO, STATS, TASKS, NOTES
README = Path("README.md")
CARD = README, *(Path("card", name) for name in ("contact_sheet.png", "episodes.mp4", "lengths.png"))
SIGNATURE = "<!-- collect_dataset.py wrote the above, and keeps it once it is edited: {} -->"


@dataclass(frozen=True)
class Notes:
    """How a dataset is recorded, and how far it is."""

    recipe: Recipe = field(default_factory=Recipe)
    next_seed: int = 0  # all before it are decided
    attempts: int = 0  # episodes played
    successes: int = 0  # of these
    commands: tuple[str, ...] = ()

    def validate(self) -> None:
        if not 0 <= self.successes <= self.attempts <= 2**62:
            raise ValueError(f"{self.successes} successes in {self.attempts} attempts")
        if not 0 <= self.next_seed <= 2**63:
            raise ValueError(f"next_seed must not be negative, got {self.next_seed}")

    def after(self, attempts: int, successes: int, next_seed: int | None = None) -> "Notes":
        """These notes after more attempts, of which some were successes."""
        return replace(
            self,
            next_seed=self.next_seed if next_seed is None else next_seed,
            attempts=self.attempts + attempts,
            successes=self.successes + successes,
        )


class Dataset:
    """A dataset on the disk, or a new one; `checks.open_recording` opens an existing one.

    Args:
        root: its folder.
        notes: as saved, or those of a new dataset.
        episodes, frames: how many it holds.
    """

    def __init__(self, root: Path, notes: Notes, episodes: int = 0, frames: int = 0) -> None:
        self.root = root
        self.task = recorded_task(notes.recipe.task)
        self.features = {**features(self.task, notes.recipe), **DEFAULT_FEATURES}
        self.schema = get_hf_features_from_features(self.features).arrow_schema
        self._remember(notes, episodes, frames)

    def _remember(self, notes: Notes, episodes: int, frames: int) -> None:
        """Note what is on the disk."""
        self.notes, self.episodes, self.frames = notes, episodes, frames
        self.stats: dict[str, dict] = (load_stats(self.root) or {}) if episodes else {}
        self._data = last_file(self.root / "data") if episodes else NumberedFile()
        self._meta = last_file(self.root / "meta/episodes") if episodes else NumberedFile()

    @deferring_stop_signals()  # else more could be on the disk than this object knows
    def append(self, episodes: Sequence[RecordedEpisode], notes: Notes) -> None:
        """Add episodes. When this returns all of them are on the disk, until then none is.

        Raises:
            UserError: the disk is full or cannot be written; the dataset stays as it was.
        """
        data, meta, frames, stats = self._data, self._meta, self.frames, self.stats
        tables, videos, rows = defaultdict(list), defaultdict(list), defaultdict(list)  # by file
        for number, episode in enumerate(episodes, self.episodes):
            data, meta = data.grow(len(episode), FRAMES_PER_FILE), meta.grow(1, EPISODES_PER_FILE)
            episode_stats = episode.stats | _index_stats(number, frames, len(episode))
            row = _row(self.task, episode, number, frames, data, meta, episode_stats)
            tables[data.data].append(self._table(episode, row))
            rows[meta.meta].append(row)
            if episode.video:
                videos[data.video(IMAGE)].append(episode.video)
            stats, frames = _merge(stats, episode_stats), frames + len(episode)
        count = self.episodes + len(episodes)
        with self._next_version(count, frames) as new:
            self._link(new, leave_out={*tables, *videos, *rows, *SUMMARY})
            for write, files in ((extend, tables), (extend_video, videos), (extend_rows, rows)):
                for path, added in files.items():
                    write(self._old(path), new / path, added)
            self._write_summary(new, count, frames, stats, notes)
        self._remember(notes, count, frames)

    @deferring_stop_signals()
    def drop_last(self) -> None:
        """Remove the last episode, its success too; not for datasets with videos, which are not cut.

        Raises:
            UserError: as `append`.
        """
        data, meta = self._data.data, self._meta.meta
        last = read_table(self.root / meta, ["length", "success"])[-1:].to_pylist()[0]
        length = last["length"]
        notes = replace(self.notes, successes=self.notes.successes - last["success"])
        if self.episodes == 1:
            if foreign := foreign_file(self.root):
                raise UserError(f"{self.root}: its only episode stays, because {foreign} would go with it")
            remove(self.root)  # LeRobot opens no dataset without episodes
            self._remember(notes, 0, 0)
            return
        count, frames = self.episodes - 1, self.frames - length
        with self._next_version(count, frames) as new:
            self._link(new, leave_out={data, meta, *SUMMARY})
            shorten(self.root / data, new / data, self._data.rows - length)
            shorten(self.root / meta, new / meta, self._meta.rows - 1)
            self._write_summary(new, count, frames, all_stats(new / "meta/episodes"), notes)
        self._remember(notes, count, frames)

    @property
    def has_card(self) -> bool:
        """Whether there is a card. It is up to date, but for a README that a person has edited."""
        return all((self.root / path).exists() for path in CARD)

    def add_card(self, write: Callable[[Path], None]) -> None:
        """Add what `write(folder)` puts into a copy of the dataset, a README and its pictures, and the notes.

        Raises:
            UserError: as `append`.
        """
        with self._next_version(self.episodes, self.frames) as new:
            self._link(new, leave_out={NOTES})
            save_json(new / NOTES, asdict(self.notes))
            write(new)

    @contextmanager
    def _next_version(self, episodes: int, frames: int) -> Iterator[Path]:
        """As `next_version`, but a version that does not hold so much never replaces `root`."""
        with next_version(self.root) as new:
            yield new
            files = (parquet_files(new / name) for name in ("meta/episodes", "data"))
            found = tuple(sum(pq.read_metadata(path).num_rows for path in paths) for paths in files)
            if found != (episodes, frames):
                raise UserError(
                    f"{self.root}: left as it was: the new version would hold {found[0]} episodes and "
                    f"{found[1]} frames instead of {episodes} and {frames}"
                )

    def _old(self, path: Path) -> Path | None:
        """A file as it is; None if it is new, or belongs to what this dataset replaces."""
        return self.root / path if self.episodes and (self.root / path).exists() else None

    def _link(self, new: Path, leave_out: set[Path]) -> None:
        if self.episodes:
            dropped = {*leave_out, *CARD}  # the card describes the dataset as it was
            if is_edited(self.root / README):
                dropped.remove(README)
            link_all(self.root, new, lambda path: path not in dropped)

    def _table(self, episode: RecordedEpisode, row: dict[str, Any]) -> pa.Table:
        """The frames of an episode as LeRobot stores them."""
        steps = len(episode)
        pictures = [
            {"bytes": png, "path": f"frame-{index:06d}.png"} for index, png in enumerate(episode.pictures)
        ]
        values = episode.columns | {
            IMAGE: pictures,
            "episode_index": np.full(steps, row["episode_index"]),
            "index": np.arange(row["dataset_from_index"], row["dataset_to_index"]),
            "task_index": np.zeros(steps, np.int64),
        }
        arrays = [pa.array(list(values[column.name]), column.type) for column in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema)

    def _write_summary(self, new: Path, episodes: int, frames: int, stats: dict, notes: Notes) -> None:
        """Write the files of `meta/` that describe the dataset as a whole."""
        described = {name: dict(feature) for name, feature in self.features.items()}
        if notes.recipe.video:
            described[IMAGE]["info"] = get_video_info(
                new / NumberedFile().video(IMAGE), rgb_encoder_defaults()
            )
        robot = self.task.recording.robot_type
        info = create_empty_dataset_info(
            CODEBASE_VERSION, self.task.fps, described, notes.recipe.video, robot
        )
        info.total_episodes, info.total_frames, info.total_tasks = episodes, frames, 1
        info.splits = {"train": f"0:{episodes}"}
        write_info(info, new)
        write_stats({name: stats[name] for name in self.features}, new)
        write_tasks(DataFrame({"task_index": [0]}, index=Index([self.task.sentence], name="task")), new)
        save_json(new / NOTES, asdict(notes))


def signed(text: str) -> str:
    """A README that `is_edited` knows as ours as long as nobody has changed it."""
    text = text.rstrip() + "\n"
    return f"{text}\n{SIGNATURE.format(sha256(text.encode()).hexdigest())}\n"


def is_edited(readme: Path) -> bool:
    """Whether there is a README that is not, or no longer, as we wrote it: a person's words are kept."""
    try:
        text = read_text(readme)
    except (OSError, ValueError):
        return readme.is_symlink() or readme.exists()
    return text != signed(text[: text.rfind("\n\n")])


def _row(
    task: Recordable,
    episode: RecordedEpisode,
    number: int,
    start: int,
    data: NumberedFile,
    meta: NumberedFile,
    stats: dict[str, dict],
) -> dict[str, Any]:
    """What LeRobot keeps of an episode in `meta/episodes`, and its seed, success and largest progress."""
    row = {
        "episode_index": number,
        "tasks": [task.sentence],
        "length": len(episode),
        "data/chunk_index": data.chunk,
        "data/file_index": data.file,
        "dataset_from_index": start,
        "dataset_to_index": start + len(episode),
    }
    if episode.video:  # its file is as long as the one with the other values of the same frames
        row[f"videos/{IMAGE}/chunk_index"], row[f"videos/{IMAGE}/file_index"] = data.chunk, data.file
        row[f"videos/{IMAGE}/from_timestamp"] = (data.rows - len(episode)) / task.fps
        row[f"videos/{IMAGE}/to_timestamp"] = data.rows / task.fps
    row |= {name: value.tolist() for name, value in flatten_dict({"stats": stats}).items()}
    row |= {"meta/episodes/chunk_index": meta.chunk, "meta/episodes/file_index": meta.file}
    return row | {
        "seed": episode.seed,
        "success": episode.success,
        max_progress_name(task): episode.max_progress,
    }


def _index_stats(number: int, start: int, steps: int) -> dict[str, dict[str, np.ndarray]]:
    return {
        "episode_index": column_stats(np.full(steps, number)),
        "index": column_stats(np.arange(start, start + steps)),
        "task_index": column_stats(np.zeros(steps, np.int64)),
    }


def _merge(stats: dict[str, dict], episode_stats: dict[str, dict]) -> dict[str, dict]:
    """The statistics with one episode more, in float64, so that saving and reading changes nothing."""
    added = {
        name: {key: np.asarray(value, np.float64) for key, value in values.items()}
        for name, values in episode_stats.items()
    }
    return aggregate_stats([stats, added]) if stats else added


def all_stats(folder: Path) -> dict[str, dict]:
    """The statistics of all episodes in the files of `meta/episodes`."""
    stats: dict[str, dict] = {}
    for path in parquet_files(folder):
        table = read_table(path)
        for row in table.select(
            [name for name in table.column_names if name.startswith("stats/")]
        ).to_pylist():
            episode_stats: dict[str, dict] = defaultdict(dict)
            for name, value in row.items():
                _, feature, statistic = name.split("/")
                episode_stats[feature][statistic] = value
            stats = _merge(stats, episode_stats)
    return stats
