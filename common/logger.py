"""Where a run's numbers go: `metrics.csv`, TensorBoard, and Weights & Biases when asked for."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from common.errors import UserError
from common.video import encode_gif


class Logger:
    """Writes scalars by environment step. A context manager that closes them.

    Args:
        folder: of the run.
        resumed_at: rows of later steps are dropped: a run that was killed goes on from its checkpoint, and
            what it had logged beyond that comes again.
        wandb_project: log there too; empty for not.
        config: the resolved configuration, for Weights & Biases.

    Raises:
        UserError: the folder cannot be written; so do all methods.
    """

    def __init__(
        self, folder: Path, resumed_at: int = 0, wandb_project: str = "", config: dict | None = None
    ) -> None:
        self.path = folder / "metrics.csv"
        with _told_where(folder):
            self.rows = [row for row in _read(self.path) if int(row["step"]) <= resumed_at]
            self.columns = list(dict.fromkeys(["step", *(name for row in self.rows for name in row)]))
            self._rewrite()
            self.tensorboard = SummaryWriter(folder, purge_step=resumed_at + 1)
        self.wandb = None
        if wandb_project:
            import wandb  # an import that takes a second, and most runs do without

            name = folder.name
            self.wandb = wandb.init(
                project=wandb_project, dir=folder, name=name, id=name, resume="allow", config=config
            )

    def __enter__(self) -> "Logger":
        return self

    def __exit__(self, exception_type: type | None, *_) -> None:
        # Of two errors, the one that ended the run is the one to report.
        with suppress(UserError) if exception_type else nullcontext():
            self.close()

    def log(self, step: int, scalars: dict[str, float]) -> None:
        """Add one row, under names as TensorBoard groups them (`Eval/success_rate`)."""
        row = {"step": step} | {name: f"{value:.6g}" for name, value in scalars.items()}
        self.rows.append(row)
        with _told_where(self.path.parent):
            if new := [name for name in row if name not in self.columns]:
                self.columns += new
                self._rewrite()
            else:
                with self.path.open("a", newline="") as file:
                    csv.DictWriter(file, self.columns).writerow(row)
            for name, value in scalars.items():
                self.tensorboard.add_scalar(name, value, step)
        if self.wandb:
            self.wandb.log(scalars, step=step)

    def video(self, step: int, frames: np.ndarray, fps: int = 10) -> None:
        """Show frames (T, H, W, 3) uint8 in TensorBoard, as the moving picture that its image panel plays."""
        _, height, width, _ = frames.shape
        gif = encode_gif(frames, fps)
        image = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=gif)
        value = Summary.Value(tag="Rollout", image=image)
        with _told_where(self.path.parent):
            self.tensorboard.file_writer.add_summary(Summary(value=[value]), step)

    def close(self) -> None:
        with _told_where(self.path.parent):
            self.tensorboard.close()
        if self.wandb:
            self.wandb.finish()

    def _rewrite(self) -> None:
        temporary = self.path.with_suffix(".partial")
        with temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, self.columns)
            writer.writeheader()
            writer.writerows(self.rows)
        temporary.replace(self.path)


def _read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    text = path.read_text()
    whole = text[: text.rfind("\n") + 1]  # a full disk may have cut the last line
    # Empty cells are columns that the row did not have.
    return [{k: v for k, v in row.items() if v} for row in csv.DictReader(whole.splitlines())]


@contextmanager
def _told_where(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder}: its logs cannot be written: {error.strerror}") from None
