"""The files of a LeRobot dataset: where they are, and how one that has room gets longer.

Nothing is changed in place. A file that grows is written anew, because the version before has the old one.
"""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import av
import av.logging
import pyarrow as pa
import pyarrow.parquet as pq
from av.error import FFmpegError
from lerobot.datasets.utils import DEFAULT_DATA_PATH, DEFAULT_EPISODES_PATH, DEFAULT_VIDEO_PATH
from lerobot.datasets.video_utils import concatenate_video_files

from common.lerobot_files import parquet_files, read_table, reading
from common.lerobot_videos import open_video

FILES_PER_FOLDER = 1_000  # LeRobot's default

CHUNK, EPISODE, KEY = r"chunk-\d{3,}", r"episode[-_]\d{6,}", r"[\w.-]+"
WRITTEN = re.compile(  # what LeRobot of any version, the Hub, the system and we put into a dataset
    rf"meta/(info|stats|recording)\.json|meta/(tasks|subtasks)\.parquet"
    rf"|meta/(tasks|episodes|episodes_stats)\.jsonl|meta/episodes/{CHUNK}/file-\d{{3,}}\.parquet"
    rf"|data/{CHUNK}/(file-\d{{3,}}|{EPISODE})\.parquet"
    rf"|videos/({KEY}/{CHUNK}/file-\d{{3,}}|{CHUNK}/{KEY}/{EPISODE})\.mp4"
    rf"|images/{KEY}/{EPISODE}/frame[-_]\d{{6,}}\.(png|tiff?)"
    r"|README\.md|card/(contact_sheet\.png|episodes\.mp4|lengths\.png)"
    r"|\.gitattributes|(.+/)?\.DS_Store"
    r"|\.cache/huggingface/((down|up)load/.+\.(metadata|lock|incomplete)|\.gitignore|CACHEDIR\.TAG)"
)


@dataclass(frozen=True)
class NumberedFile:
    """Where a file of frames, of their videos, or of episodes is, and how many of these it holds."""

    index: int = 0
    rows: int = 0

    @classmethod
    def at(cls, chunk: int, file: int) -> "NumberedFile":
        return cls(chunk * FILES_PER_FOLDER + file)

    @property
    def chunk(self) -> int:
        return self.index // FILES_PER_FOLDER

    @property
    def file(self) -> int:
        return self.index % FILES_PER_FOLDER

    def grow(self, rows: int, full: int) -> "NumberedFile":
        """The last file after that many rows more: another one, if this one is full."""
        if self.rows >= full:
            return NumberedFile(self.index + 1, rows)
        return NumberedFile(self.index, self.rows + rows)

    @property
    def data(self) -> Path:
        return Path(DEFAULT_DATA_PATH.format(chunk_index=self.chunk, file_index=self.file))

    @property
    def meta(self) -> Path:
        return Path(DEFAULT_EPISODES_PATH.format(chunk_index=self.chunk, file_index=self.file))

    def video(self, key: str) -> Path:
        return Path(DEFAULT_VIDEO_PATH.format(video_key=key, chunk_index=self.chunk, file_index=self.file))


def last_file(folder: Path) -> NumberedFile:
    """The last Parquet file below `folder`, which numbers them from 0 without a gap."""
    files = parquet_files(folder)
    return NumberedFile(len(files) - 1, pq.read_metadata(files[-1]).num_rows) if files else NumberedFile()


def foreign_file(root: Path) -> Path | None:
    """A file in a dataset's folder that is no part of it, by its relative path; links are not followed."""
    paths = (Path(folder, name).relative_to(root) for folder, _, names in os.walk(root) for name in names)
    return min((path for path in paths if not WRITTEN.fullmatch(path.as_posix())), default=None)


def row_groups(path: Path) -> Iterator[pa.Table]:
    """The row groups of a Parquet file.

    Raises:
        UserError: it is damaged.
    """
    with reading(path), pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield file.read_row_group(group)


def count_frames(video: Path) -> int:
    """How many whole frames a video holds, without decoding them."""
    whole = 0
    with open_video(video) as container:
        whole = sum(packet.size > 0 and not packet.is_corrupt for packet in container.demux(video=0))
    return whole


def extend(old: Path | None, new: Path, tables: Sequence[pa.Table]) -> None:
    """Write the row groups of the Parquet file `old`, if there is one, and each table as one more."""
    new.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(new, tables[0].schema, compression="snappy", use_dictionary=True) as writer:
        for table in chain(row_groups(old) if old else (), tables):
            writer.write_table(table)


def extend_rows(old: Path | None, new: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows of the Parquet file `old`, if there is one, and these, in one row group."""
    new.parent.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist(rows)
    if old:  # the result must equal a file written at once: names of list items, row groups
        with reading(old):
            before = read_table(old).cast(table.schema)
        table = pa.concat_tables([before, table]).combine_chunks()
    pq.write_table(table, new)


def shorten(old: Path, new: Path, rows: int) -> None:
    """Write the first rows of the Parquet file `old`, in the row groups they are in; no file for none."""
    if rows == 0:
        return
    new.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(new, pq.read_schema(old)) as writer:
        for group in row_groups(old):
            table = group[:rows]
            rows -= len(table)
            if len(table):
                writer.write_table(table)


def extend_video(old: Path | None, new: Path, videos: Sequence[bytes]) -> None:
    """Write the video `old`, if there is one, and after it the others, without encoding anything again."""
    new.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=new.parent) as folder:
        parts: list[Path | str] = [Path(folder) / f"{number}.mp4" for number in range(len(videos))]
        for part, video in zip(parts, videos, strict=True):
            Path(part).write_bytes(video)
        parts = [old, *parts] if old else parts
        av.logging.set_level(av.logging.ERROR)  # else it prints a line for every file
        try:
            if len(parts) == 1:
                shutil.copy(parts[0], new)
            else:
                concatenate_video_files(parts, new)
        except FFmpegError as error:  # of which only some are OSErrors
            raise OSError(str(error)) from error
