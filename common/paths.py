"""Where files are: `configs/`, `assets/` in the repository; `logs/`, `data/` in the working directory."""

import os
from contextlib import suppress
from pathlib import Path

from common.errors import UserError, show
from common.start import REPOSITORY

LOGS = Path("logs")


def expanded(path: Path | str) -> Path:
    """The path with a home in the place of `~`, which a shell leaves in `--root=~/x`.

    Raises:
        UserError: there is no such user, or it can be no path.
    """
    try:
        home = Path(path).expanduser()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            home.lstat()
    except RuntimeError:
        raise UserError(f"{path}: no user {Path(path).parts[0][1:]}") from None
    except (OSError, ValueError) as error:  # too long, or with a null character
        raise UserError(f"{show(str(path))} can be no path: {getattr(error, 'strerror', error)}") from None
    return home


def in_repository(path: Path | str) -> Path:
    """The path; one below `assets/` or `configs/` that does not exist here is the repository's."""
    path = expanded(path)
    ours = path.parts[:1] in (("assets",), ("configs",))
    return REPOSITORY / path if ours and not path.exists() and (REPOSITORY / path).exists() else path


def shown(path: Path) -> Path:
    """The path relative to the working directory, if it lies below."""
    real = Path(os.path.realpath(path))  # Path.resolve raises for a link to itself
    return Path(os.path.relpath(path)) if real.is_relative_to(Path.cwd()) else path
