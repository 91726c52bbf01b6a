"""Prepares the process; the scripts import this module before all others, whose imports take seconds.

Libraries get folders for their caches, closed standard streams are opened, file names are UTF-8, freed memory
is used again, and Ctrl-C ends a script without a traceback. Where all of that holds already, nothing changes.
"""

import ctypes
import getpass
import os
import signal
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

NUMBA_CONFIG = ".numba_config.yaml"
LARGEST_REUSED = 256 << 20  # bytes of a block of memory
LARGEST_OF_OLDER_GLIBC = 32 << 20
KEPT = 1 << 30  # bytes of freed memory that a process keeps at most
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
REPOSITORY = Path(__file__).resolve().parents[1]


def unwritable_caches() -> dict[str, Path]:
    """The environment variable of each cache whose default folder cannot be written; and that folder.

    Folders of downloads stay the same where they exist, because they can still be read.
    """
    home = Path(os.path.expanduser("~"))  # noqa: PTH111  Path.expanduser raises where there is none
    cache = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    hub = Path(os.environ.get("HF_HOME") or cache / "huggingface")
    modules = REPOSITORY / "envs"  # Numba's first choice, beside the source
    computed = {
        "NUMBA_CACHE_DIR": modules if _can_write(modules) else cache / "numba",
        "HF_DATASETS_CACHE": hub / "datasets",
        "MPLCONFIGDIR": Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config") / "matplotlib",
        "TRITON_CACHE_DIR": home / ".triton",
    }
    fetched = {"HF_HOME": hub, "TORCH_HOME": cache / "torch"}
    fetched = {name: folder for name, folder in fetched.items() if not os.path.exists(folder)}  # noqa: PTH110
    missing = {name: folder for name, folder in (computed | fetched).items() if not _can_write(folder)}
    return {name: folder for name, folder in missing.items() if name == "HF_HOME" or name not in os.environ}


def find_caches() -> None:
    """Move caches that cannot be written to the temporary folder, by environment variables.

    Raises:
        SystemExit: code 2, that cannot be written either.
    """
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # a container whose user has no name: torch's cache is called so
        os.environ["LOGNAME"] = f"uid_{os.getuid()}"
    if names := unwritable_caches():
        try:
            folder = _own_temporary_folder()
        except OSError as error:
            _refuse(f"no folder for caches ({error.strerror}): set TMPDIR to one that can be written")
        os.environ |= {name: str(folder / name.lower()) for name in names}


def _can_write(folder: Path) -> bool:
    """Whether files can be made there, or where it would have to be made."""
    while not os.path.exists(folder) and folder != folder.parent:  # noqa: PTH110  Path.exists may raise
        folder = folder.parent
    try:
        with tempfile.TemporaryFile(dir=folder):
            return folder.is_absolute()
    except OSError:
        return False


def _own_temporary_folder() -> Path:
    """The same one for each start, unless somebody else has made it: Numba executes what is in its cache."""
    folder = Path(tempfile.gettempdir()) / f"caches_of_{getpass.getuser()}"
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    ours = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022
    return folder if ours else Path(tempfile.mkdtemp())


def check_working_directory() -> None:
    """Raise SystemExit, code 2, where the working directory was deleted, in which some libraries fail."""
    try:
        os.getcwd()  # noqa: PTH109  Path.cwd() is the same
    except OSError as error:
        _refuse(f"the working directory is gone ({error.strerror}): cd to another one")


def _refuse(sentence: str) -> NoReturn:
    print(f"error: {sentence}", file=sys.stderr)
    raise SystemExit(2)


def open_streams() -> None:
    """Open closed standard streams on /dev/null, else the next file that is opened gets their number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  stays open


def reuse_memory() -> None:
    """Let glibc keep freed memory for what is allocated next, unless the environment says how.

    Otherwise it gives the tensors of an update back to the system, which clears their pages for the next
    one: a quarter of the time of SAC's update from pictures.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and not {"MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_"} & os.environ.keys():
        if not mallopt(M_MMAP_THRESHOLD, LARGEST_REUSED):
            mallopt(M_MMAP_THRESHOLD, LARGEST_OF_OLDER_GLIBC)
        mallopt(M_TRIM_THRESHOLD, KEPT)


def _is_our_script() -> bool:
    """Whether one of this repository's scripts was started; others may import this module."""
    file = getattr(sys.modules["__main__"], "__file__", None)
    return file is not None and Path(file).parent in (REPOSITORY, REPOSITORY / "benchmarks")


def _end(_number: int, _frame: FrameType | None) -> None:
    os.write(2, b"interrupted\n")
    os._exit(130)


@contextmanager
def interrupts_raise() -> Iterator[None]:
    """Within this block Ctrl-C raises KeyboardInterrupt; outside it, it ends one of our scripts at once."""
    ends = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGINT) is _end
    if ends:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        if ends:
            signal.signal(signal.SIGINT, _end)


def check_numba_config() -> None:
    """Keep Numba from executing what it finds where a file in the working directory says that its cache is.

    Raises:
        SystemExit: code 2, there is such a file, and one of our scripts was started.
    """
    if not os.path.lexists(NUMBA_CONFIG):
        return
    os.environ.setdefault("NUMBA_CACHE_DIR", "")  # beside the source, whatever the file says
    if _is_our_script():
        _refuse(f"{NUMBA_CONFIG} in the working directory would change what is compiled: cd to another one")


open_streams()
reuse_memory()
find_caches()
check_numba_config()
if _is_our_script():
    check_working_directory()
    if sys.getfilesystemencoding() != "utf-8" and not sys.flags.utf8_mode:  # a locale of another encoding
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)
