"""Where, when and with what something was measured."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from common.checkpoint import save_json


def provenance(*packages: str) -> dict[str, Any]:
    """Date, machine and versions, of Python and of `packages`, for a file of numbers."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }


def write_report(path: Path, numbers: dict[str, Any]) -> None:
    """Save what a benchmark measured as JSON, and say where."""
    path.parent.mkdir(parents=True, exist_ok=True)
    save_json(path, numbers)
    print(f"\nwritten to {path}")
