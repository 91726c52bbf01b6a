"""Checkpoint folders that are complete or absent, also after a kill at any moment.

A folder is written under a temporary name, flushed to the disk and renamed. `last` and `best` are links to
such folders, replaced in one step as well, so at every moment they lead to a whole checkpoint. On a disk
without links (exFAT, SMB) each is a text, the folder's name, as git writes them there: `follow` reads both.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from common.config import from_dict
from common.errors import UserError, reason, show
from common.untrusted import check_inside, load_json, read_text, remove, write_text, writing

TRAINING_STATE = "training_state"
NAME = re.compile(r"(step|offline)_\d+")  # of a checkpoint
LEFT_BY_A_KILL = re.compile(rf"\.({NAME.pattern}|last|best)(\.deleted|\.partial)*\.partial")


class Checkpoints:
    """The checkpoints of a run: `last`, `best`, and those that stay.

    Args:
        folder: where they are.
        unit: what an evaluation calls the steps that checkpoints are named by.

    Raises:
        UserError: the folder is a link that leads out of the run's.
    """

    def __init__(self, folder: Path, unit: str) -> None:
        check_inside(folder, folder.parent)
        self.folder = folder
        self.unit = unit
        self.best: dict[str, Any] = {}  # evaluation of the best one
        self.kept: list[str] = []  # names of those that stay

    def path(self, steps: int) -> Path:
        return self.folder / f"step_{steps:08d}"

    def restore(self, best: dict[str, Any], kept: Sequence[str]) -> None:
        """Continue with the best one's evaluation and the names of those that stay.

        Raises:
            ValueError: these are none.
        """
        if strange := [name for name in kept if not NAME.fullmatch(name)]:
            raise ValueError(f"kept must hold names of checkpoints, got {show(strange[0])}")
        self.best, self.kept = dict(best), list(kept)

    def keep(self, steps: int) -> None:
        """Keep the checkpoint of these steps."""
        if self.path(steps).name not in self.kept:
            self.kept.append(self.path(steps).name)

    def check_room(self, size: int) -> None:
        """Raise UserError where the disk has no room for one more of so many bytes."""
        disk = shutil.disk_usage(self.folder.parent)
        if disk.total and disk.free < size:  # some network disks say that they have nothing at all
            raise UserError(
                f"{self.folder}: a checkpoint takes {size / 2**20:,.0f} MB, and its disk has "
                f"{disk.free / 2**20:,.0f} MB left: make room, or use another --logs"
            )

    def save(self, steps: int, write: Callable[[Path], None], offline: int | None = None) -> None:
        """Write one, point `last` to it and `best` to the best one.

        Args:
            steps: that it is of.
            write: its content into a folder.
            offline: updates that it is of, while those before the first step last.

        Raises:
            UserError: the disk is full or cannot be written; the earlier ones are intact.
        """
        path = self.path(steps) if offline is None else self.folder / f"offline_{offline:08d}"
        write_folder(path, write)
        link(self.folder / "last", path)
        self.tidy()

    def add(self, steps: int, results: dict[str, dict[str, Any]]) -> None:
        """Put the results of an evaluation into the checkpoint of these steps, and let `best` follow.

        A kill in between costs nothing: a resumed run evaluates again.

        Args:
            results: by the JSON file that they belong to; what says that the evaluation is done comes last.

        Raises:
            UserError: a file is missing or damaged, or cannot be written.
        """
        folder = self.path(steps)
        for name, values in results.items():
            check_inside(folder / name, folder)
            content = load_json(folder / name) | values
            with writing(folder / name):
                save_json(folder / name, content)
        self.tidy()

    def tidy(self) -> None:
        """Bring `best` and the folder up to date with `last`, after a kill too.

        Raises:
            UserError: `last` leads to another run's, which does not say what is to stay of this one's.
        """
        check_inside(self.folder / "last", self.folder)
        if self.best:
            step, best = self.path(self.best[self.unit]), self.folder / "best"
            if not step.exists() and best.is_dir() and not best.is_symlink():
                with writing(step):
                    best.rename(step)  # a copy has its links followed, and may have left the steps out
            if step.exists():
                link(best, step)
        prune(self.folder, keep=lambda path: path.name in self.kept)


def newest(checkpoints: Path, *parts: str) -> Path | None:
    """The checkpoint of the most steps, ours (`step_00000100`) or LeRobot's (`000100`), that has all parts.

    It is the last one where a copy left the links out.

    Args:
        checkpoints: the folder of all.
        parts: files or folders in it, or in LeRobot's `pretrained_model`.
    """
    pattern = r"(?:step_|(offline)_)?(\d{1,18})"  # all offline ones are before all others
    named = {path: re.fullmatch(pattern, path.name) for path in checkpoints.glob("*/")}
    steps = {path: (not name[1], int(name[2])) for path, name in named.items() if name}
    whole = [
        path
        for path in steps
        if all((path / part).exists() or (path / "pretrained_model" / part).exists() for part in parts)
    ]
    return max(whole, key=steps.__getitem__, default=None)


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Create the folder `path` with what `write(folder)` puts into it, or leave no trace.

    One that exists is whole and stays.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    if path.is_dir() and not path.is_symlink():
        return
    temporary = path.with_name(f".{path.name}.partial")
    try:
        remove(temporary)
        temporary.mkdir(parents=True)
        write(temporary)
        for written in (temporary, *temporary.rglob("*")):
            flush(written)
        if path.is_symlink():  # not a checkpoint of this run
            path.unlink()
        temporary.rename(path)
        flush(path.parent)
    except (OSError, SafetensorError) as error:
        remove(temporary)
        raise UserError(
            f"{path}: could not be written, earlier checkpoints are intact: {reason(error)}"
        ) from error


def link(name: Path, folder: Path) -> None:
    """Make `name` lead to its sibling `folder`, in one step.

    A copied run whose links were followed (`scp -r`) has a folder there, which makes room.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    temporary = name.with_name(f".{name.name}.partial")
    try:
        remove(temporary)
        if not _link(temporary, folder.name):
            with temporary.open("x", encoding="utf-8") as file:
                file.write(folder.name)
        if name.is_dir() and not name.is_symlink():
            _delete(name)
        temporary.replace(name)
    except OSError as error:
        raise UserError(f"{name}: could not be written, it leads where it led: {reason(error)}") from error


def follow(name: Path) -> Path:
    """The folder that `name`, perhaps `last` or `best`, leads to where the disk has no links; else `name`."""
    try:
        target = read_text(name, limit=100).strip()
    except (OSError, ValueError):  # a folder, or nothing
        return name
    return name.with_name(target) if re.fullmatch(r"\w+", target) else name


def is_filled(folder: Path) -> bool:
    """Whether it is a folder with something in it: some copies make empty folders or files of links."""
    try:
        return any(folder.iterdir())
    except OSError:
        return folder.is_dir()  # which cannot be listed


def has_links(folder: Path) -> bool:
    """Whether links can be made in this folder."""
    trial = folder / ".link.partial"
    remove(trial)
    made = _link(trial, "nothing")
    remove(trial)
    return made


def _link(name: Path, target: str) -> bool:
    try:
        name.symlink_to(target, target_is_directory=True)
    except OSError:
        return False
    return True


def prune(checkpoints: Path, keep: Callable[[Path], bool]) -> None:
    """Delete what neither `last` nor `best` nor `keep` wants, and every training state but `last`'s."""
    if not checkpoints.is_dir():
        return
    real = os.path.realpath  # unlike Path.resolve it raises nothing for a link to itself
    last, best = (real(follow(checkpoints / name)) for name in ("last", "best"))
    for folder in list(checkpoints.iterdir()):
        left = LEFT_BY_A_KILL.fullmatch(folder.name)
        ours = left or NAME.fullmatch(folder.name)
        if folder.is_symlink() or not folder.is_dir() or not ours:
            continue
        wanted = real(folder) in (last, best) or keep(folder)
        if left or not wanted:
            _delete(folder)
        elif real(folder) != last:
            _delete(folder / TRAINING_STATE)


def save_tensors(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Write named tensors of any device as safetensors."""
    path.touch()
    mode = path.stat().st_mode
    save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, path)
    path.chmod(mode)  # safetensors makes its files unreadable for others


def save_json(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=2) + "\n")


def read_state[State](
    kind: type[State], content: dict[str, Any], source: Path, optional: Sequence[str] = ()
) -> State:
    """Read a training's state into its dataclass; a missing field is an error and not its default.

    Args:
        kind: as `common.config.from_dict` has it.
        content: of the JSON file.
        source: that file.
        optional: fields that former files do not have.

    Raises:
        UserError: something is missing, unknown, of another type or out of range.
    """
    names = [field.name for field in fields(kind)]  # pyright: ignore[reportArgumentType]
    if missing := [name for name in names if name not in content and name not in optional]:
        raise UserError(f"{source}: {missing[0]} is missing, so it is not the whole state of a training")
    return from_dict(kind, content, f"{source}: ")


def part(values: dict[str, Any], name: str) -> dict[str, Any]:
    """Those called `name.*`, without that."""
    start = f"{name}."
    return {key.removeprefix(start): value for key, value in values.items() if key.startswith(start)}


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(folder: Path) -> None:
    """Under a name of its own, so that a kill leaves no half of it under the old one."""
    doomed = folder.with_name(f".{folder.name.strip('.')}.deleted.partial")
    with suppress(OSError):  # what cannot be deleted takes space and does no harm
        remove(doomed)
        folder.rename(doomed)
        remove(doomed)
