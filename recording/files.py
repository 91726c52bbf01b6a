"""The files of a LeRobot dataset: where they are, and how one that has room gets longer.

Nothing is changed in place. A file that grows is written anew, since the version before has the old one.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.utils import DEFAULT_DATA_PATH, DEFAULT_EPISODES_PATH, DEFAULT_VIDEO_PATH
from lerobot.datasets.video_utils import concatenate_video_files

FILES_PER_FOLDER = 1_000  # LeRobot's default


@dataclass(frozen=True)
class Tail:
    """The last file of a kind: frames, their videos, or episodes."""

    index: int = 0
    rows: int = 0

    @classmethod
    def at(cls, chunk: int, file: int) -> "Tail":
        return cls(chunk * FILES_PER_FOLDER + file)

    @property
    def chunk(self) -> int:
        return self.index // FILES_PER_FOLDER

    @property
    def file(self) -> int:
        return self.index % FILES_PER_FOLDER

    def grow(self, rows: int, full: int) -> "Tail":
        """The tail after that many rows more: another file, if this one is full."""
        return Tail(self.index + 1, rows) if self.rows >= full else Tail(self.index, self.rows + rows)

    @property
    def data(self) -> Path:
        return Path(DEFAULT_DATA_PATH.format(chunk_index=self.chunk, file_index=self.file))

    @property
    def meta(self) -> Path:
        return Path(DEFAULT_EPISODES_PATH.format(chunk_index=self.chunk, file_index=self.file))

    def video(self, key: str) -> Path:
        return Path(DEFAULT_VIDEO_PATH.format(video_key=key, chunk_index=self.chunk, file_index=self.file))


def last_file(folder: Path) -> Tail:
    """The last Parquet file below `folder`, which numbers them from 0 without a gap."""
    files = sorted(folder.rglob("*.parquet"))
    return Tail(len(files) - 1, pq.read_metadata(files[-1]).num_rows) if files else Tail()


def extend(old: Path | None, new: Path, tables: Sequence[pa.Table]) -> None:
    """Write the row groups of the Parquet file `old`, if there is one, and each table as one more."""
    new.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(new, tables[0].schema, compression="snappy", use_dictionary=True) as writer:
        if old:
            with pq.ParquetFile(old) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))
        for table in tables:
            writer.write_table(table)


def extend_rows(old: Path | None, new: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of the Parquet file `old`, if there is one, and these, in one row group."""
    new.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if old:  # made as if at once: neither Parquet's names of list items nor the seam is to show
        table = pa.concat_tables([pq.read_table(old).cast(table.schema), table]).combine_chunks()
    pq.write_table(table, new)


def shorten(old: Path, new: Path, rows: int) -> None:
    """Write the first rows of the Parquet file `old`, in the row groups they are in; no file for none."""
    if rows == 0:
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetFile(old) as file, pq.ParquetWriter(new, file.schema_arrow) as writer:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)[:rows]
            rows -= len(table)
            if len(table):
                writer.write_table(table)


def extend_video(old: Path | None, new: Path, videos: Sequence[bytes]) -> None:
    """Write the video `old`, if there is one, and after it the others, without encoding anything again."""
    new.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        parts = [Path(folder) / f"{number}.mp4" for number in range(len(videos))]
        for part, video in zip(parts, videos, strict=True):
            part.write_bytes(video)
        parts = [old, *parts] if old else parts
        av.logging.set_level(av.logging.ERROR)  # it tells of every file
        if len(parts) == 1:
            shutil.copy(parts[0], new)
        else:
            concatenate_video_files(parts, new)
