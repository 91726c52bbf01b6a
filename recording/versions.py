"""A folder that changes as a whole: every new version is built beside it and replaces it in one step.

Whenever the process is killed, the folder is the old version or the new one, and both are whole. Files that
did not change are linked, not copied. Everything temporary is in a hidden folder, `.<name>.recording`.
"""

import ctypes
import errno
import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.checkpoint import flush
from common.errors import UserError
from common.lerobot_files import FOLDERS, all_files
from common.run import only_process_in
from common.untrusted import writing

INTACT = "; what was saved before is intact: mend that, then resume with --resume"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux' fcntl.h and fs.h; macOS' RENAME_SWAP is 2 as well


@contextmanager
def writing_to(root: Path) -> Iterator[None]:
    """Hold `root` for this process, and repair what a killed one left half done.

    Raises:
        UserError: another process records there, or the disk cannot be written.
    """
    if root.is_mount():
        raise UserError(
            f"{root}: a disk is mounted there, and it cannot be replaced: choose --root {root / 'data'}"
        )
    workplace = _workplace(root)
    if workplace.is_symlink():
        raise UserError(f"{workplace}: is a link, and what it leads to would be changed: delete the link")
    with only_process_in(workplace, "recording"):
        previous = workplace / "previous"
        if previous.exists() and not root.exists():
            previous.rename(root)
        _delete(previous)
        _delete(workplace / "next")
        try:
            yield
        finally:
            _delete(workplace / "next")
            if root.exists():  # else it is all that there is
                _delete(previous)
            (workplace / ".lock").unlink(missing_ok=True)
            with suppress(OSError):  # something is left in it
                workplace.rmdir()


@contextmanager
def next_version(root: Path) -> Iterator[Path]:
    """An empty folder to build in, which becomes `root` at the end of the block; after an error `root` stays.

    Raises:
        UserError: the disk is full or cannot be written.
    """
    folder = _workplace(root) / "next"
    try:
        with writing(root, INTACT):
            _delete(folder)
            folder.mkdir(parents=True)
            yield folder
            for written in (*folder.rglob("*"), folder):
                if not written.is_symlink():
                    flush(written)
            _replace(root, folder)
            flush(root.parent)
    finally:
        _delete(folder)


def remove(root: Path) -> None:
    """Delete the folder, in one step.

    Raises:
        UserError: the disk cannot be written.
    """
    doomed = _workplace(root) / "next"
    with writing(root, INTACT):
        doomed.parent.mkdir(exist_ok=True)
        root.rename(doomed)
    _delete(doomed)


def link_all(source: Path, target: Path, wanted: Callable[[Path], bool]) -> None:
    """Give `target` the files below `source` whose relative path is wanted, as links if the disk has them.

    LeRobot's folders may be links to another disk: then their files are copied. Other links stay links.
    """
    for path in all_files(source):
        relative = path.relative_to(source)
        if not wanted(relative):
            continue
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        if path.is_symlink() and relative.parts[0] not in FOLDERS:
            (target / relative).symlink_to(path.readlink())
            continue
        try:
            os.link(path.resolve(), target / relative)
        except OSError:
            shutil.copy2(path, target / relative)


def _workplace(root: Path) -> Path:
    return root.parent / f".{root.name}.recording"


def _replace(root: Path, new: Path) -> None:
    """Put `new` in the place of `root`; what was there is then at `new`, or gone."""
    if not root.exists():
        new.rename(root)
    elif not _exchange(root, new):
        # No such system call: between these two lines `root` is missing, and `writing_to` brings it back.
        previous = new.with_name("previous")
        root.rename(previous)
        new.rename(root)
        _delete(previous)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system or its file system cannot."""
    libc = ctypes.CDLL(None, use_errno=True)
    paths = os.fsencode(one), os.fsencode(other)
    if hasattr(libc, "renameat2"):
        failed = libc.renameat2(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE)
    elif platform.system() == "Darwin":
        failed = libc.renamex_np(*paths, _RENAME_EXCHANGE)
    else:
        return False
    if failed and ctypes.get_errno() not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return not failed


def _delete(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
