"""A run's numbers: `metrics.csv`, TensorBoard, and optionally Weights & Biases."""

import csv
import io
import re
from pathlib import Path
from socket import gethostname
from time import time
from typing import Any
from uuid import uuid4

import imageio.v3
import numpy as np
from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # pyright: ignore  # made at run time
from tensorboard.compat.proto.summary_pb2 import Summary  # pyright: ignore
from tensorboard.summary.writer.record_writer import RecordWriter

from common.errors import UserError, reason
from common.untrusted import append_text, check_inside, new_file, read_text, write_text, writing
from common.video import encode_gif

MAX_BYTES, MAX_ROWS = 2**28, 10**6  # of metrics.csv


class Logger:
    """Writes scalars by step. A context manager that closes them.

    Args:
        folder: of the run.
        resumed_at: rows of later steps are dropped: a killed run resumes from its checkpoint and logs what
            came after it again.
        wandb_project: log there too; empty for not.
        config: the resolved configuration, for Weights & Biases.

    Raises:
        UserError: the folder cannot be written; so do all methods.
    """

    def __init__(
        self, folder: Path, resumed_at: int = 0, wandb_project: str = "", config: dict | None = None
    ) -> None:
        self.path = folder / "metrics.csv"
        with writing(folder):
            try:
                self.rows = [row for row in _read(self.path) if int(row["step"]) <= resumed_at]
            except (KeyError, ValueError, csv.Error) as error:
                raise UserError(
                    f"{self.path}: damaged ({reason(error)}); move it away to continue without it"
                ) from None
            self.columns = list(dict.fromkeys(["step", *(name for row in self.rows for name in row)]))
            self._rewrite()
            self.tensorboard = EventFile(folder, first_step=resumed_at + 1)
        self.wandb = None
        if wandb_project:
            self.wandb = _wandb_run(folder, wandb_project, config)

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Add one row, under names as TensorBoard groups them (`Eval/success_rate`).

        An evaluation that a kill kept out of the checkpoint comes again: its row is there already.
        """
        row = {"step": str(step)} | {name: f"{value:.6g}" for name, value in scalars.items()}
        if row in self.rows[-2:]:
            return
        self.rows.append(row)
        with writing(self.path.parent):
            if new := [name for name in row if name not in self.columns]:
                self.columns += new
                self._rewrite()
            else:
                line = io.StringIO(newline="")
                csv.DictWriter(line, self.columns).writerow(row)
                append_text(self.path, line.getvalue())
            self.tensorboard.add(step, [{"tag": k, "simple_value": v} for k, v in scalars.items()])
        if self.wandb:
            self.wandb.log(scalars, step=step)

    def video(self, step: int, frames: np.ndarray, fps: int) -> None:
        """Show frames (T, H, W, 3) uint8 in TensorBoard, as the moving picture that its image panel plays."""
        self._show(step, "Rollout", frames.shape[1:3], encode_gif(frames, fps))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """Show a picture (H, W, 3) uint8 in TensorBoard."""
        png = imageio.v3.imwrite("<bytes>", picture, extension=".png")
        self._show(step, name, picture.shape[:2], png)

    def _show(self, step: int, name: str, size: tuple[int, ...], encoded: bytes) -> None:
        height, width = size
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=encoded)
        with writing(self.path.parent):
            self.tensorboard.add(step, [{"tag": name, "image": image}])

    def close(self) -> None:
        with writing(self.path.parent):
            self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()

    def _rewrite(self) -> None:
        with new_file(self.path) as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)


class EventFile:
    """What TensorBoard reads, written at once.

    torch's `SummaryWriter` writes in a thread: a kill would lose its last minutes, and a full disk would end
    in its traceback.

    Args:
        folder: of the run.
        first_step: what earlier files hold from here on is not shown.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        self.file = (folder / f"events.out.tfevents.{time():.6f}.{gethostname()}").open("xb")
        self.records = RecordWriter(self.file)
        self._write(file_version="brain.Event:2")
        self._write(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def add(self, step: int, values: list[dict[str, Any]]) -> None:
        """Add values, each given by the fields of a `Summary.Value`."""
        self._write(step=step, summary=Summary(value=[Summary.Value(**value) for value in values]))

    def close(self) -> None:
        self.file.close()

    def _write(self, **fields: Any) -> None:
        self.records.write(Event(wall_time=time(), **fields).SerializeToString())
        self.records.flush()


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    text = read_text(path, MAX_BYTES)
    whole = text[: text.rfind("\n") + 1]  # a full disk may have cut the last line
    # Empty cells are columns that the row did not have.
    lines = whole.splitlines()
    if len(lines) > MAX_ROWS:
        raise ValueError(f"it has {len(lines):,} rows, more than {MAX_ROWS:,}")
    rows = list(csv.DictReader(lines))
    if any(None in (*row, *row.values()) for row in rows):
        raise ValueError("a row is not as long as the first")
    steps = [int(row["step"]) for row in rows]
    if steps != sorted(steps):
        raise ValueError("its steps do not rise")
    return [{k: v for k, v in row.items() if v} for row in rows]


def _wandb_run(folder: Path, project: str, config: dict | None) -> Any:
    """The folder's run at Weights & Biases; a resumed training continues it."""
    name = _wandb_id(folder / "wandb_id")
    check_inside(folder / "wandb", folder)
    import wandb  # an import that takes a second, and most runs do without

    with writing(folder):
        try:
            return wandb.init(
                project=project,
                dir=folder,
                name=folder.name,
                id=name,
                resume="allow",
                config=config,
            )
        except wandb.Error as error:
            raise UserError(f"wandb_project {project}: {reason(error)}") from None


def _wandb_id(file: Path) -> str:
    """What the file holds; a new one where there is none."""
    with writing(file.parent):
        if not file.exists():
            write_text(file, uuid4().hex[:8])
        try:
            name = read_text(file).strip()
        except ValueError:
            name = ""
    if not re.fullmatch(r"[\w-]{1,64}", name):  # it becomes part of a path
        raise UserError(f"{file}: not the id of a run; move it away to begin a new one")
    return name
