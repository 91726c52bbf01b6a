"""Reads and checks the files of a LeRobot dataset (v3.0), which somebody else may have written.

LeRobot does not check them: it asks the Hub for a missing one, formats paths that they contain, and takes an
episode's length from one and its frames from another. Here their sizes have limits, and they must agree.
`act`, `sac` and `recording` share this module; it needs Parquet and pictures, but not LeRobot.
"""

import re
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from string import Formatter
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from av.error import FFmpegError
from PIL import Image

from common import untrusted
from common.errors import UserError, show
from common.memory import free_bytes
from common.untrusted import load_json, open_regular

INFO, STATS, TASKS = Path("meta/info.json"), Path("meta/stats.json"), Path("meta/tasks.parquet")
NOTES = Path("meta/recording.json")  # ours: how collect_dataset.py recorded it
FOLDERS = "data", "meta", "videos"
VERSION = "v3.0"
CONVERTER = "python -m lerobot.scripts.convert_dataset_v21_to_v30"
MAX_FRAMES = 20_000_000
MAX_SIDE = 100_000  # of an array or a picture
DAMAGE = (  # what readers of Parquet, JSON, videos and pictures (SyntaxError) raise
    *(OSError, ValueError, LookupError, TypeError, AttributeError, SyntaxError, RuntimeError, MemoryError),
    *(ArithmeticError, pa.ArrowException, FFmpegError, Image.DecompressionBombError),
)
LONGEST_SENTENCE = 1_000  # characters of what a dataset says is to be done
MOST_SENTENCES = 10_000
PICTURE_FORMATS = ["PNG", "JPEG"]  # Pillow would also open what starts a program, such as PostScript
OF_EPISODES = "episode_index", "length", "dataset_from_index", "dataset_to_index"
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # sizes are compared
REPAIR = "take it from a copy, or record anew elsewhere"


def reading(path: Path | str) -> AbstractContextManager[None]:
    """As `common.untrusted.reading`, for what reads a dataset's files."""
    return untrusted.reading(path, DAMAGE, f"; {REPAIR}")


def parquet_files(folder: Path) -> list[Path]:
    """Those of `data` or of `meta/episodes`, in their order, also behind links.

    Raises:
        UserError: a folder is missing or cannot be listed, or a file is none, such as a pipe, on which
            reading never ends.
    """
    with reading(folder):
        chunks = [chunk for chunk in folder.iterdir() if chunk.is_dir()]
        files = sorted(file for chunk in chunks for file in chunk.iterdir() if file.suffix == ".parquet")
    if irregular := [file for file in files if not file.is_file()]:
        raise UserError(f"{irregular[0]}: no regular file; {REPAIR}")
    return files


def all_files(root: Path) -> list[Path]:
    """Every file and link below `root`; of links to folders, the files that LeRobot reads behind them."""
    patterns = "data/*/*", "meta/*", "meta/episodes/*/*", "videos/*/*/*"
    found = {*root.rglob("*"), *(path for pattern in patterns for path in root.glob(pattern))}
    links = {path for path in found if path.is_symlink() and path.relative_to(root).parts[0] not in FOLDERS}
    return sorted(links | {path for path in found if path.is_file()})


def read_table(path: Path, columns: Sequence[str] | None = None) -> pa.Table:
    """A Parquet file; a folder above it that is called `name=value` adds no column.

    Raises:
        OSError, ValueError or another exception of `DAMAGE`.
    """
    with open_regular(path):
        pass
    metadata = pq.read_metadata(path)
    if (rows := metadata.num_rows) > MAX_FRAMES:
        raise ValueError(f"it says that it holds {rows:,} rows, more than {MAX_FRAMES:,}")
    wanted = columns and list(columns)
    groups = (metadata.row_group(group) for group in range(metadata.num_row_groups))
    chunks = (group.column(i) for group in groups for i in range(group.num_columns))
    values = sum(chunk.num_values for chunk in chunks if not wanted or _is_of(chunk, wanted))
    if 8 * values > free_bytes(torch.device("cpu")):  # packed, they may take no room in the file
        raise ValueError(f"it says that it holds {values:,} numbers, more than fit into the memory")
    return pq.read_table(path, columns=wanted, partitioning=None)  # pyright: ignore[reportArgumentType]


def _is_of(chunk: pq.ColumnChunkMetaData, columns: Sequence[str]) -> bool:
    path = chunk.path_in_schema  # `action`, or `action.list.element`
    return any(path == name or path.startswith(f"{name}.") for name in columns)


def read_info(root: Path) -> dict[str, Any]:
    """What `meta/info.json` says.

    Raises:
        UserError: it is missing, of another version, damaged, or leads out of the dataset.
    """
    info = load_json(root / INFO)
    with reading(root / INFO):
        version = info["codebase_version"]
        if version != VERSION:
            old = [int(number) for number in version.removeprefix("v").split(".")] < [3, 0]
            hint = f"LeRobot has a converter: {CONVERTER}" if old else "it is newer than this LeRobot"
            raise UserError(f"{root}: a dataset of version {version:.20}, not {VERSION}; {hint}")
        if not (isinstance(info["fps"], int | float) and 0 < info["fps"] <= 10_000):
            raise ValueError(f"{show(info['fps'])} frames per second")
        for name in ("total_episodes", "total_frames"):
            if type(info[name]) is not int or not 0 <= info[name] <= MAX_FRAMES:
                raise ValueError(f"{name} is {show(info[name])}")
        for name, feature in info["features"].items():
            shape, kind = feature["shape"], feature["dtype"]
            whole = isinstance(kind, str) and isinstance(shape, list) and all(type(n) is int for n in shape)
            if not whole or not all(0 < n <= MAX_SIDE for n in shape) or "/" in name:
                raise ValueError(f"the feature {show(name)} is of type {show(kind)} and shape {show(shape)}")
        for template in ("data_path", "video_path"):
            _check_template(info.get(template) or "")
    return info


def _check_template(template: str) -> None:
    """Raise ValueError where formatting it would do more than put names and numbers into a path."""
    for _, field, spec, conversion in Formatter().parse(template):
        known = field in (None, "video_key", "chunk_index", "file_index") and not conversion
        if not known or not re.fullmatch(r"0?\d?d?", spec or ""):
            raise ValueError(f"{show(template)} is no pattern of paths")
    inside(Path(), template)


def inside(root: Path, path: str) -> Path:
    """A path below `root`.

    Raises:
        ValueError: it leads elsewhere.
    """
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise ValueError(f"{show(path)} leads out of the dataset")
    return root / path


def read_episodes(root: Path, info: dict[str, Any]) -> pa.Table:
    """The numbers in the table of episodes, without their statistics, each where the one before it ends.

    Args:
        root: of the dataset.
        info: what `read_info` returned.

    Raises:
        UserError: it is missing, damaged, or contradicts itself or the description.
    """
    tables, number, total = [], 0, 0
    for path in parquet_files(root / "meta/episodes"):
        with reading(path):
            fields = [field for field in pq.read_schema(path) if not field.name.startswith("stats/")]
            wanted = [f.name for f in fields if pa.types.is_primitive(f.type) or f.name in OF_EPISODES]
            table = read_table(path, wanted)
            lengths = whole_numbers(table, "length")
            if len(lengths) and not 0 < lengths.min() <= lengths.max() <= MAX_FRAMES:
                wrong = lengths.min() if lengths.min() <= 0 else lengths.max()
                raise ValueError(f"an episode of {wrong:,} frames")
            ends = total + np.cumsum(lengths)
            _compare(table, "episode_index", number + np.arange(len(table)))
            _compare(table, "dataset_from_index", ends - lengths)
            _compare(table, "dataset_to_index", ends)
            number, total = number + len(table), total + int(lengths.sum())
        tables.append(table)
    if not tables:
        raise UserError(f"{root / 'meta/episodes'}: missing; {REPAIR}")
    described = info["total_episodes"], info["total_frames"]
    if described != (number, total):
        raise UserError(
            f"{root}: damaged: {INFO} says {described[0]} episodes of {described[1]} frames, "
            f"meta/episodes holds {number} of {total}; {REPAIR}"
        )
    with reading(root / "meta/episodes"):
        return pa.concat_tables(tables).replace_schema_metadata(None)


def check_frames(root: Path, lengths: np.ndarray, fps: float) -> None:
    """Compare the frames in `data` with the table of episodes.

    Args:
        root: of the dataset.
        lengths: of its episodes, in frames.
        fps: frames per second.

    Raises:
        UserError: they are others.
    """
    episodes = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    position, total = 0, len(episodes)
    for path in parquet_files(root / "data"):
        with reading(path):
            table = read_table(path, ["episode_index", "frame_index", "index", "timestamp"])
            index = position + np.arange(len(table))
            position += len(table)
            if position > total:
                break
            _compare(table, "index", index)
            _compare(table, "episode_index", episodes[index])
            frames = index - starts[episodes[index]]
            _compare(table, "frame_index", frames)
            late = ~(np.abs(table["timestamp"].to_numpy() - frames / fps) < 0.5 / fps)
            if late.any():
                raise ValueError(f"the timestamp in row {late.argmax()} is not that of its frame")
    if position != total:
        raise UserError(
            f"{root}: damaged: data holds {position} frames{' or more' if position > total else ''}, "
            f"{INFO} says {total}; {REPAIR}"
        )


def read_sentences(root: Path, num_frames: int) -> tuple[list[str], np.ndarray]:
    """What is to be done in each of the first `num_frames` frames, in words.

    Args:
        root: of the dataset.
        num_frames: to read.

    Returns:
        the dataset's sentences, and which of them each frame has, (num_frames,) int64.

    Raises:
        ValueError: they are none, too many or too long, or a frame has none of them; or another of `DAMAGE`.
    """
    table = read_table(root / TASKS)
    if not 0 < len(table) <= MOST_SENTENCES:
        raise ValueError(f"{TASKS} has {len(table):,} sentences, not from 1 to {MOST_SENTENCES:,}")
    _compare(table, "task_index", np.arange(len(table)))
    column = table["task" if "task" in table.column_names else "__index_level_0__"]  # pandas' nameless index
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)) or column.null_count:
        raise ValueError(f"{TASKS} must hold text, got {column.type}")
    sentences = column.to_pylist()
    if (longest := max(map(len, sentences))) > LONGEST_SENTENCE:
        raise ValueError(f"{TASKS} has a sentence of {longest:,} characters, more than {LONGEST_SENTENCE:,}")
    files = parquet_files(root / "data")
    which = np.concatenate([whole_numbers(read_table(file, ["task_index"]), "task_index") for file in files])
    if not ((which >= 0) & (which < len(sentences))).all():
        raise ValueError(f"task_index is {which.max()} or less, and {TASKS} has {len(sentences)} sentences")
    return sentences, which[:num_frames]


def whole_numbers(table: pa.Table, name: str) -> np.ndarray:
    """A column (N,) int64.

    Raises:
        ValueError or KeyError: it is not of whole numbers.
    """
    column = table[name]
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(f"{name} must be whole numbers, got {column.type}")
    return column.to_numpy().astype(np.int64)


def numbers(table: pa.Table, name: str, size: int) -> np.ndarray:
    """A column (N, size); one number per frame is stored as such, several as a list.

    Raises:
        ValueError or KeyError: it is not of such numbers.
    """
    column = table[name].combine_chunks()
    if not hasattr(column, "flatten"):
        return np.asarray(column).reshape(len(column), size)
    sizes = np.diff(column.offsets) if hasattr(column, "offsets") else column.type.list_size
    if np.any(sizes != size) or column.null_count:
        raise ValueError(f"{name} is not of {size} numbers in every frame")
    return column.flatten().to_numpy().reshape(len(column), size)


def decode_picture(file: IO[bytes], height: int, width: int) -> np.ndarray:
    """(height, width, 3) uint8 RGB.

    Raises:
        ValueError: it is of another size; or another exception of `DAMAGE`.
    """
    picture = Image.open(file, formats=PICTURE_FORMATS)
    if picture.size != (width, height):  # before it is decoded
        raise ValueError(f"a picture of {picture.height} x {picture.width}, not {height} x {width}")
    return np.asarray(picture.convert("RGB"))


def _compare(table: pa.Table, name: str, expected: np.ndarray) -> None:
    values = whole_numbers(table, name)
    if (wrong := values != expected).any():
        row = int(wrong.argmax())
        raise ValueError(f"{name} in row {row} is {values[row]}, and by the rows before it {expected[row]}")


def check_extremes(name: str, values: np.ndarray, stats: dict[str, Any]) -> None:
    """Raise ValueError where values (N, k) are not between the `min` and `max` of their statistics."""
    if {"min", "max"} <= {*stats}:
        low, high, slack = _extremes(stats)
        if ((values < low - slack) | (values > high + slack)).any():
            raise ValueError(f"{STATS} is not of these values: {name} is not between its min and max")


def _extremes(stats: dict[str, Any]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Least and largest values, and what sums in float32 may be off."""
    low, high = (np.asarray(stats[part], np.float64) for part in ("min", "max"))
    return low, high, 1e-3 * (1 + np.maximum(abs(low), abs(high)))


def check_statistics(stats: dict[str, Any], shapes: dict[str, tuple[int, ...]], parts: Sequence[str]) -> None:
    """Compare `meta/stats.json` with what it should hold.

    Args:
        stats: its content.
        shapes: of each feature's statistics.
        parts: that are needed, such as mean and std; `min` and `max` are compared where they are.

    Raises:
        ValueError: a statistic is missing, not finite numbers of this shape, or not between `min` and `max`.
    """
    for name, shape in shapes.items():
        there = stats.get(name)
        if not isinstance(there, dict) or not {*parts} <= {*there}:
            raise ValueError(f"it has no statistics of {name}")
        has_extremes = {"min", "max"} <= {*there}
        compared = [*dict.fromkeys([*parts, *(("min", "max") if has_extremes else ())])]
        for part in compared:
            values = np.asarray(there[part])
            right = values.dtype.kind in "if" and values.shape == shape and np.isfinite(values).all()
            if not right or (part == "std" and (values < 0).any()):
                raise ValueError(f"the {part} of {name} must be finite numbers of shape {shape}")
        if has_extremes:
            low, high, slack = _extremes(there)
            for part in compared:
                lowest, highest = (0, high - low) if part == "std" else (low, high)
                values = np.asarray(there[part], np.float64)
                if ((values < lowest - slack) | (values > highest + slack)).any():
                    raise ValueError(f"the {part} of {name} is not that of values between its min and max")
    for name, parts_of_it in stats.items():  # LeRobot makes tensors of all; of kind u they are beyond int64
        if not all(np.asarray(values).dtype.kind in "bif" for values in parts_of_it.values()):
            raise ValueError(f"the statistics of {show(name)} are not all numbers")
