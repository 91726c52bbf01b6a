"""Rows of a table of experiments: each a few of our commands, run one after the other into a log."""

import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.paths import REPOSITORY

Numbers = dict[str, Any]  # what evaluate.py wrote
Columns = dict[str, Callable[[Numbers], str]]  # cells of a row, by the column's title


def run_rows(run: Callable[[str], bool], rows: Iterable[str], jobs: int) -> list[str]:
    """Run the rows of these names, `jobs` at a time, one core each; returns those that failed.

    Raises:
        UserError: jobs is not a number of processes.
    """
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, got {jobs}")
    rows = list(rows)
    with ThreadPoolExecutor(jobs) as pool:
        return [row for row, succeeded in zip(rows, pool.map(run, rows), strict=True) if not succeeded]


def run_commands(commands: Iterable[str], log: Path) -> bool:
    """Run scripts of the repository with their flags; False as soon as one fails, or was stopped."""
    one_core = os.environ | {"OMP_NUM_THREADS": "1"}
    with log.open("a") as file:
        return all(
            subprocess.run(_from_repository(command), stdout=file, stderr=file, env=one_core).returncode == 0
            for command in commands
        )


def _from_repository(command: str) -> list[str]:
    script, *flags = shlex.split(command)
    return [sys.executable, str(REPOSITORY / script), *flags]


def success(numbers: Numbers) -> str:
    """The success rate and its interval."""
    low, high = (100 * bound for bound in numbers["success_ci95"])
    return f"{numbers['pc_success']:.1f} % ({low:.1f} to {high:.1f})"


def steps_to_success(numbers: Numbers) -> str:
    steps = numbers["mean_steps_to_success"]
    return "-" if steps is None else f"{steps:.0f}"


PUSHT_COLUMNS: Columns = {
    "success": success,
    "steps to success": steps_to_success,
    "mean max coverage": lambda numbers: f"{numbers['mean_max_coverage']:.3f}",
}


def header(columns: Columns, *more: str) -> str:
    """The table's first two lines; the last of the further columns is how a row differs."""
    titles = "changed", *columns, *more
    return f"| {' | '.join(titles)} |\n{'|---' * len(titles)}|"


def row(name: str, columns: Columns, numbers: Numbers, *more: str) -> str:
    """A line of the table."""
    cells = name.replace("_", " "), *(cell(numbers) for cell in columns.values()), *more
    return f"| {' | '.join(cells)} |"
