"""Where files are: configurations and assets in the repository, `logs/` and `data/` where one stands."""

import os
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
LOGS = Path("logs")


def in_repository(path: Path | str) -> Path:
    """The path; one below `assets/` or `configs/` that does not exist here is the repository's."""
    path = Path(path)
    ours = path.parts[:1] in (("assets",), ("configs",))
    return REPOSITORY / path if ours and not path.exists() and (REPOSITORY / path).exists() else path


def shown(path: Path) -> Path:
    """The path as seen from where one stands, if it lies below."""
    return Path(os.path.relpath(path)) if path.resolve().is_relative_to(Path.cwd()) else path
