"""Runs scripts as a shell does, and reads what trainings leave."""

import csv
import os
import runpy
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

from common.flags import flags, key_of
from common.paths import REPOSITORY

LONGEST_S = 300  # after which a script hangs


def last_of_each(argv: Sequence[str]) -> list[str]:
    """A command line that gives each setting once: what a test wants in the place of what all tests have."""
    last = {key_of(flag): [flag, *words] for flag, words in flags(argv)}
    return [word for words in last.values() for word in words]


def sentence(stderr: str) -> str:
    (line,) = stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def run_script(script: Path, *flags: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """`python script flags`, in a fork of this process, which spares it the imports of the libraries.

    The repository's own modules are imported again, from beside the script.
    """
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        if not (child := os.fork()):
            code: Any = 1
            signal.alarm(LONGEST_S)  # ends it, should a lock of a thread be left locked
            try:
                for number, file in enumerate((out, err), start=1):
                    os.dup2(file.fileno(), number)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")  # pytest has put others there
                os.chdir(cwd)
                _forget(REPOSITORY)
                sys.path.insert(0, str(script.parent))
                sys.argv = [str(script), *flags]
                runpy.run_path(str(script), run_name="__main__")
                code = 0
            except SystemExit as ended:
                code = ended.code or 0
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        for file in (out, err):
            file.seek(0)
        code = os.waitstatus_to_exitcode(status)
        return subprocess.CompletedProcess([str(script), *flags], code, out.read(), err.read())


def _forget(repository: Path) -> None:
    """Its modules, where it lies, and what pytest does with warnings."""
    for name, module in list(sys.modules.items()):
        file = str(getattr(module, "__file__", None))
        if file.startswith(str(repository)) and "site-packages" not in file:
            del sys.modules[name]
    sys.path[:] = [place for place in sys.path if Path(place).resolve() != repository]
    warnings.simplefilter("ignore")


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
