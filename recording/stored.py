"""Reads the episodes of a dataset as they are stored, one after the other."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from common.lerobot_files import decode_picture, parquet_files, read_table, reading
from common.lerobot_videos import read_video
from recording.dataset import Dataset
from recording.files import NumberedFile
from recording.schema import IMAGE, max_progress_name


def stored_episodes(dataset: Dataset) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """The row of `meta/episodes` and the frames of each episode.

    Raises:
        UserError: a file is damaged.
    """
    wanted = ["episode_index", "length", "seed", "success", max_progress_name(dataset.task)]
    wanted += ["dataset_from_index", "data/chunk_index", "data/file_index"]
    if dataset.notes.recipe.video:
        wanted += [f"videos/{IMAGE}/from_timestamp"]
    opened, table, start = None, pa.table({}), 0
    for path in parquet_files(dataset.root / "meta/episodes"):
        with reading(path):
            episodes = read_table(path)
            stats = [name for name in episodes.column_names if name.startswith("stats/")]
            rows = episodes.select(wanted + stats).to_pylist()
            if any(not isinstance(row[name], int | float) for row in rows for name in wanted):
                raise ValueError(f"one of {', '.join(wanted)} is no number")
        for row in rows:
            place = dataset.root / _file(row).data
            with reading(place):
                if place != opened:
                    opened, table, start = place, read_table(place), row["dataset_from_index"]
                frames = table.slice(row["dataset_from_index"] - start, row["length"])
                if len(frames) != row["length"]:
                    raise ValueError(f"it holds {len(frames)} frames of episode {row['episode_index']}")
            yield row, frames


def columns(dataset: Dataset, row: dict[str, Any], table: pa.Table) -> dict[str, np.ndarray]:
    """An episode's values by feature, pictures (T, side, side, 3) uint8 RGB.

    Raises:
        UserError: a value is missing, or a picture or the video is damaged.
    """
    recipe, file = dataset.notes.recipe, _file(row)
    values = {}
    with reading(dataset.root / file.data):
        for name in set(table.column_names) - {IMAGE}:
            missing = table[name].null_count
            values[name] = np.array([] if missing else table[name].to_pylist())
            if missing or values[name].dtype == object:
                raise ValueError(f"{name} is missing in a frame of episode {row['episode_index']}")
    if recipe.observations != "pixels":
        return values
    with reading(dataset.root / (file.video(IMAGE) if recipe.video else file.data)):
        if recipe.video:
            pictures = _video_frames(dataset, row)
        else:
            files = (io.BytesIO(picture["bytes"]) for picture in table[IMAGE].to_pylist())
            pictures = np.stack([decode_picture(f, recipe.resolution, recipe.resolution) for f in files])
    return values | {IMAGE: pictures}


def _video_frames(dataset: Dataset, row: dict[str, Any]) -> np.ndarray:
    start = row[f"videos/{IMAGE}/from_timestamp"]
    times = [start + t / dataset.task.fps for t in range(row["length"])]
    video, side = dataset.root / _file(row).video(IMAGE), dataset.notes.recipe.resolution
    return read_video(video, times, dataset.task.fps, side, side).transpose(0, 2, 3, 1)


def _file(row: dict[str, Any]) -> NumberedFile:
    return NumberedFile.at(row["data/chunk_index"], row["data/file_index"])
