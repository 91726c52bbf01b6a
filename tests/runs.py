"""What the tests of both trainers and of their log look at."""

import csv
import os
import signal
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from common.flags import flags, key_of


def last_of_each(argv: Sequence[str]) -> list[str]:
    """A command line that gives each setting once: what a test wants in the place of what all tests have."""
    last = {key_of(flag): [flag, *words] for flag, words in flags(argv)}
    return [word for words in last.values() for word in words]


def sentence(stderr: str) -> str:
    (line,) = stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def dying(method: Callable, call: int) -> Callable:
    """The method; its process is killed in this call of it, from 1 on."""
    calls = count(1)

    def die(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return method(*args, **kwargs)

    return die


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("Throughput/")} for row in rows]


def curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows: steps and values by name."""
    events = EventAccumulator(str(run), size_guidance={SCALARS: 0}).Reload()
    tags = events.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in tags}
