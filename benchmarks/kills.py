"""Send signals to long jobs at random moments, resume them, and compare the results with undisturbed ones.

    python benchmarks/kills.py                           200 signals, about half an hour; prints a table
    python benchmarks/kills.py --signals 20 --seed 2     others

A try is one signal to a tiny training or recording, which is then started again with the same command. After
two tries it runs to its end. A try is lost if

* the result differs in a bit: weights, training state and replay, logged numbers, or files of the dataset;
* the job hangs, ends with a traceback, or does not resume;
* one TERM, HUP or INT ended it after its work had begun, and not all of that work was saved. The job prints
  how far it was: its checkpoint must be of that step, its dataset must have as many episodes. Tries that are
  not counted as saved came before the work had begun, or in its last step.

Each start is forked from this process, which has imported everything, because imports take the longest.
"""

import functools
import json
import multiprocessing
import os
import re
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from itertools import cycle, product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import torch
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

import collect_dataset
import train_act
import train_sac
from common.checkpoint import follow
from common.errors import report_user_errors
from common.signals import StopRequest
from policies import ASSETS
from recording import imported
from recording.workers import BlockRecorder

RECORD = f"--policy {ASSETS / 'sac_expert_fast'} --hold 0 --episodes 16 --observations"
JOBS: dict[str, tuple[Callable, str]] = {  # the script's main, and its flags
    "train_sac": (train_sac.main, "--config {inputs}/sac.yaml --logs {folder} --run-name job"),
    "train_act": (
        train_act.main,
        "--config {inputs}/act.yaml --dataset.root {inputs}/data --logs {folder} --run-name job",
    ),
    "record": (
        collect_dataset.main,
        f"{RECORD} pixels --resolution 32 --noise 3 --root {{folder}}/job --resume",
    ),
    "record, 2 workers": (
        collect_dataset.main,
        f"{RECORD} keypoints --workers 2 --root {{folder}}/job --resume",
    ),
    "import": (
        collect_dataset.main,
        "--import-human {inputs}/people.npz --observations keypoints --root {folder}/job --resume",
    ),
}
# But where a second Ctrl-C comes while pymunk frees a body, which cffi tells and goes on from.
TRACEBACK = re.compile(r"^(?!Exception ignored).*\nTraceback", re.MULTILINE)
SIGNALS: dict[str, tuple[list[signal.Signals], bool]] = {  # sent in turn; to all its processes
    "KILL": ([signal.SIGKILL], False),
    "TERM": ([signal.SIGTERM], False),
    "HUP": ([signal.SIGHUP, signal.SIGHUP], True),  # of the terminal that closes, and of its shell
    "INT": ([signal.SIGINT], True),
    "INT, INT": ([signal.SIGINT, signal.SIGINT], True),
    "STOP, CONT": ([signal.SIGSTOP, signal.SIGCONT], False),
}
SAVES = ("TERM", "HUP", "INT")
SAC = """
{total_env_steps: 1600, device: cpu, threads: 1, env: {num_envs: 2},
 agent: {hidden_sizes: [16, 16], batch_size: 16},
 training: {start_steps: 100, utd: 0.1, buffer_capacity: 700, log_every: 100, eval_every: 400,
            eval_episodes: 2, keep_every: 300, video_every: 0}}
"""
ACT = """
{steps: 40, batch_size: 4, device: cpu, threads: 1, optimizer: {ema: 0.9, warmup_steps: 4},
 policy: {chunk_size: 7, n_action_steps: 3, dim_model: 16, n_heads: 2, dim_feedforward: 16,
          n_encoder_layers: 1, n_vae_encoder_layers: 1, latent_dim: 4, backbone_weights: none},
 training: {log_every: 5, eval_every: 20, keep_every: 8, eval_episodes: 2, video_every: 0}}
"""
TRIES_PER_RUN = 2
LONGEST_S = 120.0  # after which a job hangs
WORKING = "work begins"
OF_THE_PROCESS = ("train_config.json", "rng_state.safetensors", "recording.json", "README.md")


def main(signals: int = 200, seed: int = 1) -> None:
    """Disturb, compare, print.

    Args:
        signals: tries.
        seed: of the moments and of the order.
    """
    rng, counts, losses = np.random.default_rng(seed), Counter(), []
    with tempfile.TemporaryDirectory() as scratch:
        inputs = prepare(Path(scratch))
        expected, seconds = {}, {}
        for number, (job, name) in enumerate(cycle(rng.permutation(list(product(JOBS, SIGNALS))).tolist())):
            if job not in expected:
                begun, folder = time.monotonic(), Path(scratch, "undisturbed", job)
                assert wait(start(job, inputs, folder), LONGEST_S) == 0, (folder / "log").read_text()
                expected[job], seconds[job] = content(folder / "job"), time.monotonic() - begun
            folder, left = Path(scratch, str(number)), signals - counts["tries"]
            moments = rng.uniform(0.0, seconds[job], min(TRIES_PER_RUN, left))
            if told := disturbed(job, name, inputs, folder, moments, counts, expected[job]):
                counts[job, name, "lost"] += 1
                losses.append(f"* {job}, {name}: {'; '.join(told)}")
            if counts["tries"] >= signals:
                break
    print(table(counts))
    print(f"\n{len(losses)} of {counts['tries']} tries lost, seed {seed}.", *losses, sep="\n")
    sys.exit(1 if losses else 0)


def prepare(scratch: Path) -> Path:
    """The jobs' inputs, and what makes them short."""
    cv2.setNumThreads(1)
    torch.set_num_threads(1)  # threads do not survive a fork, which Python warns of
    warnings.simplefilter("ignore", DeprecationWarning)
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda _: fork
    collect_dataset.BlockRecorder = functools.partial(BlockRecorder, block_size=4)  # pyright: ignore
    imported.EPISODES_PER_SAVE = 2
    inputs = scratch / "inputs"
    inputs.mkdir()
    (inputs / "sac.yaml").write_text(SAC)
    (inputs / "act.yaml").write_text(ACT)
    # Here, so that what takes long the first time is done for all who are forked.
    collect_dataset.main(f"{RECORD} keypoints --root {inputs / 'data'}".split())
    rows = pq.read_table(inputs / "data" / "data", columns=["sim.state", "action", "episode_index"])
    ends = np.flatnonzero(np.diff(rows["episode_index"].to_numpy(), append=-1)) + 1
    state, action = (np.array(rows[name].to_pylist()) for name in ("sim.state", "action"))
    np.savez(inputs / "people.npz", state=state[:, :5], action=action, episode_ends=ends)
    return inputs


def start(job: str, inputs: Path, folder: Path) -> int:
    """Run a job in a process group of its own; returns its number. It prints into `folder/log`."""
    main, flags = JOBS[job]
    argv = [word.format(inputs=inputs, folder=folder) for word in flags.split()]
    folder.mkdir(parents=True, exist_ok=True)
    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)  # there, however soon it is killed
    if child := os.fork():
        os.close(log)
        os.setpgid(child, child)
        return child
    code: Any = 1
    try:
        os.setpgid(0, 0)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.signal(signal.SIGHUP, signal.SIG_DFL)  # also under nohup
        for descriptor in (1, 2):
            os.dup2(log, descriptor)
        enter = StopRequest.__enter__

        def enter_and_tell(stop: StopRequest) -> StopRequest:
            entered = enter(stop)
            os.write(2, f"{WORKING}\n".encode())
            return entered

        StopRequest.__enter__ = enter_and_tell
        code = 0 if main(argv) else 1
    except SystemExit as ended:
        code = ended.code
    except KeyboardInterrupt:  # before `main` has begun
        code = 130
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def wait(child: int, seconds: float) -> int | None:
    """The exit code of a job, negative for a signal; None if it does not end in this time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    return None


def disturbed(
    job: str, name: str, inputs: Path, folder: Path, moments: np.ndarray, counts: Counter, expected: dict
) -> list[str]:
    """Run a job, send it signals so many seconds after each start; returns what was lost, in words."""
    told = []
    for moment in moments:
        child = start(job, inputs, folder)
        if wait(child, moment) is not None:
            break  # it has ended before
        counts["tries"] += 1
        counts[job, name, "tries"] += 1
        signals, to_all = SIGNALS[name]
        for number, each in enumerate(signals):
            time.sleep(moment / 10 if number else 0)
            os.killpg(child, each) if to_all else os.kill(child, each)
        code, log = wait(child, LONGEST_S), (folder / "log").read_text()
        if code is None:
            os.killpg(child, signal.SIGKILL)
            told.append("hung")
        if not all_gone(child):
            told.append("its workers did not end")
        if TRACEBACK.search(f"\n{log}") or (name == "STOP, CONT" and code != 0):
            told.append(log)
        if name in SAVES and code == 1:
            counts[job, name, "saved"] += 1
            if reached(folder / "job") != how_far(log):
                told.append(f"saved up to {reached(folder / 'job')}, and it was at {how_far(log)}")
        if name in SAVES and code != 1 and code != 0 and WORKING in log:
            told.append(f"ended with {code} at work: {log}")
    child = start(job, inputs, folder)
    if (code := wait(child, LONGEST_S)) != 0:
        told.append(f"resumed, it ended with {code}: {(folder / 'log').read_text()}")
    elif differing := differences(content(folder / "job"), expected):
        told.append(f"other than undisturbed: {', '.join(differing)}")
    return told


def all_gone(group: int) -> bool:
    """Whether all processes of a group end; forked workers, unlike spawned ones, hold the lock until then."""
    for _ in range(10 * int(LONGEST_S)):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    return False


def how_far(log: str) -> int | None:
    """Steps or episodes, as the job says."""
    said = re.findall(r"(?:stopped at ([\d,]+) |^[^ ].*: (\d+) episodes, )", log, re.MULTILINE)
    return int("".join(said[-1]).replace(",", "")) if said else None


def reached(job: Path) -> int | None:
    """Steps or episodes that are saved."""
    last, info = follow(job / "checkpoints" / "last"), job / "meta" / "info.json"
    if last.exists():
        return int(last.resolve().name.removeprefix("step_"))
    return json.loads(info.read_text())["total_episodes"] if info.exists() else None


def content(job: Path) -> dict[str, Any]:
    """What must be the same in the end: files by their path, without those that tell of a process."""
    if not (checkpoints := job / "checkpoints").exists():
        saved = json.loads((job / "meta" / "recording.json").read_text())
        notes = {name: value for name, value in saved.items() if name != "commands"}
        return {"notes": notes} | _files(job, "")
    parts = {"checkpoints": sorted(path.name for path in checkpoints.iterdir())}
    for name in ("last", "best"):
        parts |= _files(follow(checkpoints / name).resolve(), f"{name}/")
    head, *rows = (line.split(",") for line in (job / "metrics.csv").read_text().splitlines())
    return parts | {
        name: [row[at] for row in rows] for at, name in enumerate(head) if not name.startswith("Throughput/")
    }


def _files(folder: Path, prefix: str) -> dict[str, bytes]:
    return {
        f"{prefix}{file.relative_to(folder)}": file.read_bytes()
        for file in folder.rglob("*")
        if file.is_file() and file.name not in OF_THE_PROCESS and file.parent.name != "card"
    }


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return [name for name in sorted(one | other) if one.get(name) != other.get(name)]


def table(counts: Counter) -> str:
    """Markdown: a row per signal, a column per job."""
    lines = [f"| signal | {' | '.join(JOBS)} |", "|---" * (1 + len(JOBS)) + "|"]
    for name in SIGNALS:
        cells = []
        for job in JOBS:
            tries, saved, lost = (counts[job, name, what] for what in ("tries", "saved", "lost"))
            cells.append(f"{tries} tries, {f'{saved} saved, ' if name in SAVES else ''}{lost} lost")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
