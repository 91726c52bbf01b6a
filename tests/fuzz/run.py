"""Feed the scripts and loaders changed inputs, and tell whatever ends neither right nor in one sentence.

    python tests/fuzz/run.py --inputs 2000                  so many for each target
    python tests/fuzz/run.py --total 300                    so many in all, fewer for the slow targets
    python tests/fuzz/run.py --target sac_yaml --number 17  one again; it stays in the folder that is printed

Each input is opened in a process of its own, forked from this one, which has imported everything. It ends

    right    and what was opened says what the file says, which the target compares in a second way
    refused  by exit code 2 and one line on stderr, of at most 300 characters
    runs     after 2 s of CPU time environments still make steps, or the training still asks before each
             update whether to stop, or PyTorch begins to compile: long work was asked for, and is being done

Anything else is a finding: a traceback, 20 s of CPU time or 60 s without one of these ends, memory beyond
4 GB, a longer message, a file left or changed outside the input's folder, something wrong without a word.
"""
# ruff: noqa: E402  the environment is set before anything reads it

import os
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = Path(os.environ.get("FUZZ_SCRATCH") or tempfile.mkdtemp(prefix="fuzz_"))
os.environ |= {"FUZZ_SCRATCH": str(SCRATCH)}  # a spawned worker imports this file again
os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "SDL_VIDEODRIVER": "dummy", "TQDM_DISABLE": "1"}
os.environ |= {"HF_HOME": str(SCRATCH / "caches"), "MPLCONFIGDIR": str(SCRATCH / "caches"), "COLUMNS": "80"}
sys.path.insert(0, str(ROOT))

import argparse
import gc
import importlib
import io
import json
import re
import resource
import select
import shutil
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import targets
from inputs import SOURCES, Case
from oracles import Wrong
from targets import Runs, Target

from common.errors import report_user_errors

CPU_S, WALL_S, GIGABYTES, LONGEST = 20, 60, 4, 300
warnings.filterwarnings("ignore", "This process")  # has jemalloc's thread, which does not mind a fork
GOOD = ("right", "refused", "runs")


@dataclass
class Outcome:
    """How an input ended: a kind, and what there is to say about it."""

    kind: str
    detail: str = ""
    input: str = ""


def in_child(work: Callable[[], Outcome], case: Path) -> Outcome:
    """What `work` comes to in a forked process with bounded time and memory, in `case/cwd`."""
    for name in ("cwd", "tmp", "home", "outside"):
        (case / name).mkdir(parents=True, exist_ok=True)
    receive, send = os.pipe()
    if not (child := os.fork()):
        try:
            _become_child(case)
            outcome = work()
            os.write(send, json.dumps({name: text[:2_000] for name, text in vars(outcome).items()}).encode())
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)  # what follows is the parent's
    os.close(send)
    try:
        heard = select.select([receive], [], [], WALL_S)[0]
        answer = os.read(receive, 65_536) if heard else b""
    finally:
        os.close(receive)
        for kill in (os.kill, os.killpg):  # and what it has started
            with suppress(ProcessLookupError):
                kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if answer:
        return Outcome(**json.loads(answer))
    number = os.waitstatus_to_exitcode(status)
    said = (case / "stderr").read_text(errors="replace")
    kind = "hang" if not heard or number == -signal.SIGXCPU else "died"
    return Outcome(kind, f"exit code {number} {said[-200:]!r}", (case / "input").read_text())


def _become_child(case: Path) -> None:
    os.setsid()
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        os.dup2(os.open(case / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    os.environ |= {"TMPDIR": str(case / "tmp"), "HOME": str(case / "home")}
    tempfile.tempdir = None
    os.chdir(case / "cwd")
    (case / "input").touch()


def _limit() -> None:
    lines = Path("/proc/self/status").read_text().splitlines()
    status = {line.split(":")[0]: line.split()[1] for line in lines if line.endswith(" kB")}
    unused = (int(status["VmData"]) - int(status["VmRSS"])) * 1024  # reserved by the imports
    for limit in (resource.RLIMIT_DATA, resource.RLIMIT_FSIZE):
        resource.setrlimit(limit, (GIGABYTES * 2**30 + unused, GIGABYTES * 2**30 + unused))
    spent = int(time.process_time())
    resource.setrlimit(resource.RLIMIT_CPU, (spent + CPU_S, spent + CPU_S + 5))


def attempt(target: Target, case: Case, rng: Random | None) -> Outcome:
    """Change a valid input, unless there is no `rng`, and open it; in the child."""
    outside = case.folder.parent / "outside"
    changed = ""
    try:
        case.changed = rng.choice(target.files) if rng else target.files[0]
        if rng:
            changed = target.change(case.path, rng, outside)
        (case.folder.parent / "input").write_text(changed, errors="replace")
    except Exception:
        return Outcome("harness", traceback.format_exc()[-1500:], case.changed)
    before = {path: path.read_bytes() for path in outside.iterdir()}
    case.said = case.path.read_bytes() if case.path.is_file() else b""
    _limit()
    if rng:  # what is not changed must end
        targets.STARTED[0] = time.process_time()
    outcome = _open(target, case)
    outcome.input = changed
    if outcome.kind in GOOD:
        left = list((case.folder.parent / "cwd").glob("executed"))
        left += [path for path, data in before.items() if not path.exists() or path.read_bytes() != data]
        for name in ("tmp", "home", "outside", *(["cwd"] if not target.writes else [])):
            there = set((case.folder.parent / name).iterdir()) - before.keys()
            left += [path for path in there if not path.name.startswith("torchinductor_")]  # PyTorch's cache
        if left:
            return Outcome("left behind", str(left[0].relative_to(case.folder.parent)), changed)
    return outcome


def _open(target: Target, case: Case) -> Outcome:
    try:
        with report_user_errors():
            target.open(case)
    except Runs:
        return Outcome("runs")
    except Wrong as error:
        return Outcome("wrong", str(error))
    except SystemExit as stop:
        sys.stderr.flush()
        said = (case.folder.parent / "stderr").read_text(errors="replace")
        if stop.code in (0, None):
            return Outcome("right")
        if stop.code != 2 or not said.startswith("error: "):
            return Outcome("exit", f"code {stop.code}: {said[:600]!r}")
        return _refused(said.removeprefix("error: ").removesuffix("\n"))
    except BaseException as error:
        frames = [f for f in traceback.extract_tb(error.__traceback__) if str(ROOT) in f.filename]
        ours = [
            f for f in frames if "/fuzz/" not in f.filename and "site-packages" not in f.filename
        ] or frames
        where = f"{Path(ours[-1].filename).relative_to(ROOT)}:{ours[-1].name}" if ours else "?"
        said = " ".join(str(error).split())[:200]
        memory = isinstance(error, MemoryError) or "allocate memory" in said
        return Outcome("memory" if memory else "traceback", f"{where}: {type(error).__name__}: {said}")
    return Outcome("right")


def _refused(message: str) -> Outcome:
    if len(message.splitlines()) != 1:
        return Outcome("several lines", repr(message[:600]))
    return Outcome("refused" if len(message) <= LONGEST else "long", f"{len(message)}: {message[:600]}")


def prepare(names: set[str]) -> dict[str, Path]:
    """Make the valid inputs, each in a child, because a training leaves threads."""
    for name in sorted(names):
        folder = SCRATCH / "valid" / name / "in"
        folder.mkdir(parents=True)

        def make(name: str = name, folder: Path = folder) -> Outcome:
            SOURCES[name](folder)
            folder.with_name("modules").write_text(" ".join(sys.modules))
            return Outcome("right")

        made = in_child(make, folder.parent)
        assert made.kind == "right", (name, made, (folder.parent / "stderr").read_text()[-3000:])
        for module in folder.with_name("modules").read_text().split():
            with suppress(ImportError):
                importlib.import_module(module)  # here, else each child does it
    return {name: SCRATCH / "valid" / name / "in" for name in names}


def fuzz(target: Target, valid: Path, seed: int, number: int | None, folder: Path) -> Outcome:
    shutil.rmtree(folder, ignore_errors=True)
    case = Case(Path(shutil.copytree(valid, folder / "in", symlinks=True)), valid)
    rng = None if number is None else Random(f"{target.name} {seed} {number}")
    return in_child(lambda: attempt(target, case, rng), folder)


def feed(target: Target, valid: Path, seed: int, numbers: Sequence[int]) -> int:
    """Print the first finding of each kind, and how the inputs ended; returns the number of findings."""
    folder, ends, seen = SCRATCH / "case", Counter(), set()
    started, again = time.perf_counter(), f"python tests/fuzz/run.py --target {target.name} --seed {seed}"
    for number in (None, *numbers):  # what is not changed must be right
        outcome = fuzz(target, valid, seed, number, folder)
        ends[outcome.kind] += 1
        if outcome.kind == "right" or (outcome.kind in GOOD and number is not None):
            continue
        same = re.sub(r"(.)\1{4,}|tmp/\w+|'[^']*'|[\d.]+", "#", outcome.kind + outcome.detail)[:80]
        if same not in seen or len(numbers) == 1:
            print(f"\n{target.name}, {outcome.kind}: {outcome.input[:160]}\n    {outcome.detail}")
            print(f"    again: {again} --number {number}" if number is not None else "    without any change")
        seen.add(same)
    print(
        f"{target.name}: {dict(ends)}, {(time.perf_counter() - started) / len(numbers):.2f} s each",
        flush=True,
    )
    return sum(count for kind, count in ends.items() if kind not in GOOD)


def main() -> int:
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("--inputs", type=int, default=2000, help="for each target")
    parser.add_argument("--total", type=int, help="for all targets together")
    parser.add_argument("--target", nargs="+", default=list(targets.TARGETS), choices=targets.TARGETS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, help="of one input")
    args = parser.parse_args()
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(errors="replace")
    chosen = [targets.TARGETS[name] for name in args.target]
    valid = prepare({target.source for target in chosen})
    gc.freeze()  # else each child's collections copy the memory of the imports
    shares = sum(1 / target.cost for target in chosen)
    findings = 0
    for target in chosen:
        count = max(2, round(args.total / target.cost / shares)) if args.total else args.inputs
        numbers = range(count) if args.number is None else [args.number]
        findings += feed(target, valid[target.source], args.seed, numbers)
    print(
        f"{findings} findings" + (f", the input is in {SCRATCH / 'case'}" if args.number is not None else "")
    )
    return int(findings > 0)


if __name__ == "__main__":
    try:
        sys.exit(main())
    finally:
        if "--number" not in sys.argv:
            shutil.rmtree(SCRATCH)
