"""A run is a folder: choosing it, locking it and resuming from it."""

import os
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.checkpoint import TRAINING_STATE, follow, has_links, is_filled, link, newest
from common.config import differences, from_dict, load_yaml, save_yaml, to_dict, with_absent
from common.errors import UserError
from common.flags import typed
from common.signals import StopRequest
from common.untrusted import append_text, check_inside, writing

LEAVES_THE_RESULT = ("logs", "run_name", "resume", "device", "threads", "wandb_project")  # of a training


@dataclass
class Run:
    """A training's folder, held by this process."""

    folder: Path
    config: Any  # resolved
    script: str  # its file's name
    argv: Sequence[str] | None
    last: Path | None  # the checkpoint to resume from
    stop: StopRequest
    is_main: bool = True  # the process that writes and prints

    def begin(self, table: dict[str, str], resumed: str = "") -> None:
        """Save the configuration and the command, and print what is about to be trained.

        To be called when nothing can refuse the start any more.

        Args:
            table: what is trained, by its name.
            resumed: from where and after how many steps, if from somewhere.

        Raises:
            UserError: the folder cannot be written.
        """
        if not self.is_main:
            return
        write_down(self.folder, self.config, command_line(self.script, self.argv))
        rows = {"run": f"{self.folder}, seed {self.config.seed}"} | table
        rows["watch"] = f"tensorboard --logdir {self.config.logs}"
        print("\n".join(f"  {name:<13} {value}" for name, value in rows.items()))
        if resumed:
            print(f"resuming from {resumed}")

    def end(self, finished: bool, steps: str, longer: str, schedules: str = "") -> None:
        """Print what comes next.

        Args:
            finished: False: stopped before.
            steps: done so far, in words.
            longer: the flag of a longer training.
            schedules: what changes during a training, in words.
        """
        if not self.is_main:
            return
        again = same_command(self.folder, self.config.resume)
        if not finished:
            print(f"stopped at {steps}, saved. To resume: {again}")
            return
        print(f"finished. Play it: python evaluate.py {typed('--policy', self.folder)} --record")
        note = (
            f" ({schedules} return to their values at that share of the longer training)" if schedules else ""
        )
        print(f"Train on: {again}{', but with' if self.config.resume else ' and'} {longer}{note}")


@contextmanager
def open_run(
    script: str,
    config: Any,
    argv: Sequence[str] | None,
    name: str,
    may_change: Sequence[str],
    is_main: bool = True,
    share: Callable[[Any], Any] = lambda value: value,
) -> Iterator[Run]:
    """Choose a training's folder, hold it for this process, and find the checkpoint to resume from.

    Args:
        script: its file's name.
        config: resolved; with `logs`, `run_name`, `resume` and `seed`.
        argv: the script's.
        name: of the run, where `config.run_name` is empty.
        may_change: settings, by dotted key, that a resumed run may have changed, besides the usual ones.
        is_main: of several processes that train together, one holds the folder, writes and prints.
        share: the main process's value -> the same value in every process.

    Raises:
        UserError: another process trains there, or the run was trained with another configuration.
    """
    folder = share(choose_folder(config.logs, config.run_name or name, config.resume))
    with only_process_in(folder) if is_main else nullcontext(), StopRequest() as stop:
        if is_main and not has_links(folder):
            _warn(f"{folder}: no links on this disk, so last and best are texts; LeRobot cannot follow them")
        changeable = (*LEAVES_THE_RESULT, *may_change)
        last = share(last_checkpoint(folder, config, changeable) if is_main else None)
        yield Run(folder, config, script, argv, last, stop, is_main)


def check_name(run_name: str) -> None:
    """Raise ValueError if it is no name for a run's folder."""
    if run_name != Path(run_name).name or run_name == ".." or not run_name.isprintable():
        raise ValueError(f"run_name must be the name of a folder, not a path, got {run_name}")
    if len(run_name.encode()) > 200:  # file systems allow 255
        raise ValueError(f"run_name must have at most 200 bytes, got {len(run_name.encode())}")


def choose_folder(logs: Path, name: str, resume: bool) -> Path:
    """`logs/name`, or, not to resume, the first of `name`, `name_2`, `name_3` ... that does not exist."""
    folder, count = logs / name, 1
    while not resume and folder.exists():
        count += 1
        folder = logs / f"{name}_{count}"
    return folder


def command_line(script: str, argv: Sequence[str] | None) -> str:
    """What to type for the script to run as it does now, also when another script called its `main(argv)`."""
    return shlex.join(["python", script, *(sys.argv[1:] if argv is None else argv)])


def last_checkpoint(folder: Path, config: Any, may_change: Sequence[str]) -> Path | None:
    """The checkpoint to resume from; None for a run that has saved none, whose configuration may then change.

    Args:
        config: resolved.
        may_change: settings, by dotted key, that a resumed run may have changed.

    Raises:
        UserError: the run has another configuration, or its checkpoint is gone.
    """
    saved, name = folder / "config.yaml", folder / "checkpoints" / "last"
    check_inside(name.parent, folder)
    if saved.exists() and name.parent.exists():
        values = with_absent(load_yaml(saved), config)
        task = values.get("task", config.task)
        if task != config.task:  # whose other settings have other names
            raise UserError(
                f"{folder} was trained on task {task}, not {config.task}: "
                "use another --run-name or --no-resume"
            )
        old = to_dict(from_dict(type(config), values, f"{saved}: "))
        changed = [line for line in differences(old, to_dict(config)) if line.split(":")[0] not in may_change]
        if changed:
            raise UserError(
                f"{folder} was trained with another configuration ({'; '.join(changed)}): "
                "resume with its settings, or start a new run with another --run-name or --no-resume"
            )
    last = follow(name)
    if (name.is_symlink() or last != name) and not last.exists():
        target = name.readlink() if name.is_symlink() else last.name
        raise UserError(f"{name} leads to {target}, which is gone: --no-resume starts a new run")
    if not is_filled(last):
        _find_last(last)
        last = follow(name)
    return last if is_filled(last) else None


def _find_last(last: Path) -> None:
    """Make the link where a kill, or a copy without links, left checkpoints and no way to the last one.

    Raises:
        UserError: none of them is complete, and a new start would delete them.
    """
    whole, there = newest(last.parent, TRAINING_STATE), newest(last.parent)
    if there and not whole:
        raise UserError(
            f"{last.parent} has {there.name} without its {TRAINING_STATE}, so the run cannot be resumed: "
            "--no-resume starts a new one"
        )
    if whole:
        link(last, whole)


def write_down(folder: Path, config: Any, command: str) -> None:
    """Keep a run's resolved config in its folder, and add the command to those that started it before.

    To be called when nothing can refuse the start any more.

    Raises:
        UserError: the folder cannot be written.
    """
    with writing(folder):
        save_yaml(config, folder / "config.yaml")
        append_text(folder / "command.txt", f"{command}\n")


def same_command(folder: Path, resume: bool) -> str:
    """The command that resumes the run in `folder`, which was started with or without `--resume`."""
    if resume:
        return "the same command"
    return f"the same command, but with {typed('--run-name', folder.name)} --resume"


@contextmanager
def only_process_in(folder: Path, doing: str = "training") -> Iterator[None]:
    """Create the folder if need be and hold it for this process.

    Raises:
        UserError: another one works there, or it cannot be written.
    """
    import fcntl  # Windows has none, and evaluates all the same

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # The process before may just have taken it away, so that another could be locked beside it.
        if not os.path.samestat((folder / ".lock").lstat(), os.fstat(lock)):
            raise FileNotFoundError(folder)
    except (BlockingIOError, FileNotFoundError):
        os.close(lock)
        raise UserError(f"{folder}: another process is {doing} there") from None
    except OSError as error:  # NFS and Lustre may have no locks
        _warn(f"{folder}: cannot be locked ({error.strerror}), so start no other process that writes there")
    try:
        yield
    finally:
        with suppress(OSError):
            if [file.name for file in folder.iterdir()] == [".lock"]:  # nothing began
                (folder / ".lock").unlink()
                folder.rmdir()
        os.close(lock)


def _warn(sentence: str) -> None:
    print(f"warning: {sentence}", file=sys.stderr)
