"""Where files are: configurations and assets in the repository, `logs/` and `data/` where one stands."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LOGS = Path("logs")


def in_repository(path: Path | str) -> Path:
    """The path, or, where it does not exist and the repository has one like it, that one."""
    path = Path(path)
    if path.is_absolute() or path.exists() or not (REPOSITORY / path).exists():
        return path
    return REPOSITORY / path


def shown(path: Path) -> Path:
    """The path as seen from where one stands, if it lies below."""
    return Path(os.path.relpath(path)) if path.resolve().is_relative_to(Path.cwd()) else path
