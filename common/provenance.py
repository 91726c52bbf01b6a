"""Where, when and with what something was measured."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any


def provenance(*packages: str) -> dict[str, Any]:
    """Date, machine and versions, of Python and of `packages`, for a file of numbers."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        "versions": {"python": platform.python_version()} | {name: version(name) for name in packages},
    }
