"""Training from the command line: stopped, killed, misused, on a full disk. Networks too small to learn."""

import csv
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
import torch

import train_sac
from common.checkpoint import load_json, load_tensors, save_tensors
from common.run import only_process_in
from envs.wrappers import TrainingEnv

ROOT = Path(train_sac.__file__).parent
TINY = """
total_env_steps: 1200
device: cpu
threads: 1
env:
  num_envs: 2
  features: [agent_pos, block_pos, block_rotation, target_lead]
  smoothness_cost: 1.0
  smoothness_ramp: [200, 800]
  curriculum: 0.9  # most episodes begin where they end, so that some succeed
  curriculum_angle: 0.01
  curriculum_distance: 1.0
agent: {hidden_sizes: [16, 16], batch_size: 16, final_lr_fraction: 1.0, final_target_entropy: -2.0}
training:
  start_steps: 100
  utd: 0.1
  greedy_share: 0.5
  buffer_capacity: 700
  log_every: 40
  eval_every: 400
  eval_episodes: 2
  video_every: 0
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed, under the name that it gives itself."""
    logs = tmp_path_factory.mktemp("uninterrupted")
    train_sac.main(["--config", str(tiny), "--logs", str(logs)])
    run = logs / "tiny_seed1"
    assert "Reward/episode" in metrics(run)[-1], "some episode should have run out of time"
    assert 0.0 in contents(run)["tensors"]["replay.discounts"], "some episode should have succeeded"
    return run


@pytest.fixture
def train(tiny, tmp_path) -> Callable[..., None]:
    """Trains in `tmp_path/run`, in this process."""
    return lambda *flags: train_sac.main(command_line(tiny, tmp_path, *flags))


@pytest.fixture
def refused(train, capfd) -> Callable[..., str]:
    """Trains, expects to be refused as a person should be, and returns the sentence."""

    def refused(*flags: str) -> str:
        capfd.readouterr()
        with pytest.raises(SystemExit) as stopped:
            train(*flags)
        assert stopped.value.code == 2
        return sentence(capfd.readouterr().err)

    return refused


def command_line(tiny: Path, logs: Path, *flags: str) -> list[str]:
    return ["--config", str(tiny), "--logs", str(logs), "--run-name", "run", *flags]


def sentence(stderr: str) -> str:
    (line,) = stderr.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


def contents(run: Path, checkpoint: str = "last") -> dict[str, Any]:
    """Everything that a checkpoint holds; fails where it is not whole."""
    folder = run / "checkpoints" / checkpoint
    return {
        "config": load_json(folder / "config.json"),
        "model": load_tensors(folder / "model.safetensors"),
        "counters": load_json(folder / "training_state" / "counters.json"),
        "tensors": load_tensors(folder / "training_state" / "tensors.safetensors"),
    }


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if not k.startswith("Throughput/")} for row in rows]


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["config"] == theirs["config"] and ours["counters"] == theirs["counters"]
    for part in ("model", "tensors"):
        assert ours[part].keys() == theirs[part].keys()
        for name, tensor in theirs[part].items():
            assert ours[part][name].numpy().tobytes() == tensor.numpy().tobytes(), name


def assert_same_run(run: Path, other: Path) -> None:
    assert_same(contents(run), contents(other))
    models = [load_tensors(each / "checkpoints" / "best" / "model.safetensors") for each in (run, other)]
    torch.testing.assert_close(*models, rtol=0, atol=0)
    assert metrics(run) == metrics(other)


# Stopped and started again


def test_signals_stop_it_and_the_same_command_goes_on(uninterrupted, train, tmp_path, monkeypatch, capsys):
    """Before learning begins, in an evaluation's step, in between and in the last step: bit for bit."""
    step, steps = TrainingEnv.step, count(1)
    signals = {
        14: signal.SIGINT,
        200: signal.SIGTERM,
        294: signal.SIGTERM,
        402: signal.SIGINT,
        600: signal.SIGINT,
    }

    def step_and_be_stopped(env, actions):
        if number := signals.get(next(steps)):
            os.kill(os.getpid(), number)
        return step(env, actions)

    monkeypatch.setattr(TrainingEnv, "step", step_and_be_stopped)
    for stop in list(signals)[:-1]:
        train()
        assert f"stopped at {2 * stop:,} env steps, saved" in capsys.readouterr().out
    train()
    output = capsys.readouterr().out
    assert "going on from" in output and "at 804 env steps" in output and "finished" in output
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_finished_run_goes_on_with_more_steps(uninterrupted, train, tmp_path):
    train("--total-env-steps", "800")
    train("--total-env-steps", "800")  # nothing left to do, nothing changes
    assert contents(tmp_path / "run")["counters"]["env_steps"] == 800
    train()
    assert_same_run(tmp_path / "run", uninterrupted)


def test_kill_9_at_random_moments(tiny, tmp_path):
    """A real process, killed in training, evaluation and saving, is always able to go on."""
    run = tmp_path / "run"
    often = ("--total-env-steps", "800", "--training.eval-every", "40", "--training.eval-episodes", "1")
    started = perf_counter()
    train_sac.main(command_line(tiny, tmp_path / "expected", *often))
    duration = perf_counter() - started
    rng = np.random.default_rng()
    for _ in range(6):
        child = start(command_line(tiny, tmp_path, *often))
        child.join(timeout=rng.uniform(0.1, 0.4) * duration)
        child.kill()
        child.join()
        for name in ("last", "best"):
            if (run / "checkpoints" / name).is_symlink():
                load_tensors(run / "checkpoints" / name / "model.safetensors")
        if (run / "checkpoints" / "last").is_symlink():
            contents(run)
    train_sac.main(command_line(tiny, tmp_path, *often))
    assert_same_run(run, tmp_path / "expected" / "run")


def start(argv: list[str], file_size_limit: int = resource.RLIM_INFINITY) -> multiprocessing.Process:
    """Train in a process of its own; forked, since imports take longer than all of the training."""

    def main() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, resource.RLIM_INFINITY))
        train_sac.main(argv)

    child = multiprocessing.get_context("fork").Process(target=main)
    child.start()
    return child


def test_no_resume_begins_anew_beside_it(train, tmp_path):
    short = ("--total-env-steps", "200", "--training.eval-every", "200")
    train(*short)
    first = contents(tmp_path / "run")
    train(*short, "--no-resume", "--seed", "2")
    assert_same(contents(tmp_path / "run"), first)
    second = contents(tmp_path / "run_2")
    assert second["counters"]["env_steps"] == 200
    assert not torch.equal(first["model"]["network.0.weight"], second["model"]["network.0.weight"])


# Refused


@pytest.fixture
def started(uninterrupted, tmp_path) -> Path:
    """A copy of the finished run, to be spoilt and gone on with."""
    return Path(shutil.copytree(uninterrupted, tmp_path / "run", symlinks=True))


MORE = ("--total-env-steps", "1600")

BAD_FLAGS = {
    "negative lr": ("--agent.lr -1e-3", "agent.lr must be positive, got -0.001"),
    "lr not a number": ("--agent.lr nan", "agent.lr must be a finite number, got nan"),
    "wrong type": ("--agent.lr fast", "--agent.lr: expected float, got 'fast'"),
    "wrong type of many": ("--agent.hidden-sizes 16 wide", "--agent.hidden-sizes: expected a list of int"),
    "batch larger than buffer": ("--agent.batch-size 701", "agent.batch_size must be at most", "got 701"),
    "buffer for no step": ("--agent.n-step 400", "buffer_capacity must be at least", "800, got 700"),
    "unknown reward": ("--env.reward lavish", "--env.reward: expected one of stock", "got 'lavish'"),
    "unknown feature": ("--env.features smell", "env.features must be of agent_pos", "got smell"),
    "unknown action mode": ("--env.action-mode sideways", "expected one of absolute, relative"),
    "unknown flag": ("--agent.hiden-sizes 8", "unknown flag", "; did you mean --agent.hidden-sizes?"),
    "unknown device": ("--device abacus", "--device: expected one of auto, cpu, cuda, mps, got 'abacus'"),
    "no environments": ("--env.num-envs 0", "env.num_envs must be positive, got 0"),
    "curriculum beyond 1": ("--env.curriculum 1.5", "env.curriculum must be between 0 and 1, got 1.5"),
    "gamma beyond 1": ("--agent.gamma 1.1", "agent.gamma must be between 0 and 1, got 1.1"),
    "more in the subset": ("--agent.target-subset 3", "target_subset must be at most", "2, got 3"),
    "no updates": ("--training.utd 0", "training.utd must be positive, got 0.0"),
    "no evaluation": ("--training.eval-every 0", "training.eval_every must be positive, got 0"),
    "before the beginning": ("--training.start-steps -1", "training.start_steps must not be negative"),
    "greedy beyond 1": (
        "--training.greedy-share 2",
        "training.greedy_share must be between 0 and 1, got 2.0",
    ),
    "nothing to learn": ("--total-env-steps 100", "total_env_steps must be more than training.start_steps"),
    "no best": ("--training.best-from 1201", "training.best_from must be at most total_env_steps, 1200"),
    "run elsewhere": ("--run-name ../run", "run_name must be the name of a folder, not a path, got ../run"),
    "negative seed": ("--seed -1", "seed must not be negative, got -1"),
    "negative threads": ("--threads -1", "threads must not be negative, got -1"),
}


def test_a_buffer_beyond_the_memory(refused):
    assert "does not fit into the memory" in refused("--training.buffer-capacity", "1000000000000000")


@pytest.mark.parametrize(("flags", "words"), [(f, w) for f, *w in BAD_FLAGS.values()], ids=BAD_FLAGS)
def test_bad_flags(refused, tmp_path, flags, words):
    told = refused(*flags.split())
    assert [word for word in words if word not in told] == []
    assert not (tmp_path / "run").exists()


BAD_YAML = {
    "unknown key": ("agent: {batchsize: 8}", "unknown key agent.batchsize; did you mean agent.batch_size?"),
    "unknown part": ("agents: {lr: 1e-3}", "unknown key agents.lr; did you mean agent.lr?"),
    "wrong type": ("seed: one", "seed: expected int, got 'one'"),
    "impossible value": ("agent: {lr: -1}", "agent.lr must be positive, got -1"),
    "no mapping": ("- lr", "expected lines of the form 'key: value'"),
    "not YAML": ("agent: {lr: ", "not valid YAML"),
}


@pytest.mark.parametrize(("text", "words"), BAD_YAML.values(), ids=BAD_YAML)
def test_bad_yaml(refused, tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    told = refused("--config", str(path))
    assert words in told
    assert not (tmp_path / "run").exists()


def test_missing_yaml(refused, tiny):
    near = tiny.with_name("tyni.yaml")
    assert refused("--config", str(near)) == f"{near}: no such file; did you mean {tiny}?"


def test_cuda_where_there_is_none(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device cuda was asked for, but PyTorch finds none" in refused("--device", "cuda")


def test_logs_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "run: cannot be written: Not a directory" in refused("--logs", str(tmp_path / "file"))


def test_another_process_in_the_folder(refused, started):
    config = (started / "config.yaml").read_text()
    with only_process_in(started):
        assert refused(*MORE) == f"{started}: another process is training there"
    assert (started / "config.yaml").read_text() == config


def test_resumed_with_another_configuration(refused, started):
    told = refused(*MORE, "--agent.lr", "0.1", "--env.reward", "stock")
    assert "(env.reward: log_barrier -> stock; agent.lr: 0.0006 -> 0.1)" in told


def spoil_tensors(state: Path) -> None:
    with (state / "tensors.safetensors").open("r+b") as file:
        file.truncate(5_000)


def spoil_counters(state: Path) -> None:
    (state / "counters.json").unlink()


def spoil_state(state: Path) -> None:
    shutil.rmtree(state)


def spoil_layout(state: Path) -> None:
    tensors = load_tensors(state / "tensors.safetensors")
    save_tensors(state / "tensors.safetensors", tensors | {"window.actions": torch.zeros(2, 3, 4)})


def spoil_folder(state: Path) -> None:
    shutil.rmtree(state.resolve().parent)


SPOILT = {
    "truncated tensors": (spoil_tensors, "tensors.safetensors: damaged or truncated"),
    "missing counters": (spoil_counters, "counters.json: missing"),
    "missing state": (spoil_state, "counters.json: missing"),
    "another layout": (spoil_layout, "training_state: not the state of such a training"),
    "missing checkpoint": (spoil_folder, "last leads to step_00001200, which is gone"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_spoilt_checkpoints(refused, started, spoil, words):
    spoil(started / "checkpoints" / "last" / "training_state")
    assert words in refused(*MORE)


def test_the_exit_code_and_the_sentence_of_the_real_command():
    command = [sys.executable, "-W", "ignore", "train_sac.py", "--agent.lr", "-1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence(done.stderr) == "agent.lr must be positive, got -1.0"


# Gone wrong on the way


def test_a_training_that_diverges_stops_and_saves(refused, tmp_path):
    told = refused("--agent.lr", "1e6", "--agent.actor-ema", "0.5")
    assert "is not finite after" in told and "the state is saved in" in told
    (failed,) = (tmp_path / "run").glob("failed_*")
    assert load_json(failed / "config.json")["trained"]["updates"] > 0
    assert not (tmp_path / "run" / "checkpoints").exists()


@pytest.mark.parametrize("log_every", ["40", "100000"], ids=["found by the log", "found by the checkpoint"])
def test_weights_that_are_not_numbers_stop_it_and_last_stays(refused, started, log_every):
    tensors = started / "checkpoints" / "last" / "training_state" / "tensors.safetensors"
    poisoned = load_tensors(tensors)
    poisoned["agent.actor.network.0.weight"][0, 0] = float("nan")
    save_tensors(tensors, poisoned)
    told = refused(*MORE, "--training.log-every", log_every)
    assert "is not finite after" in told
    (failed,) = started.glob("failed_*")
    assert str(failed) in told and load_tensors(failed / "model.safetensors")
    assert (started / "checkpoints" / "last").readlink() == Path("step_00001200")
    assert {path.name for path in (started / "checkpoints").iterdir()} <= {"best", "last"} | {
        (started / "checkpoints" / name).readlink().name for name in ("best", "last")
    }


TOO_LARGE = {
    "checkpoint": ("checkpoints/last/training_state/tensors.safetensors", "earlier checkpoints are intact"),
    "logs": ("metrics.csv", "its logs cannot be written: File too large"),
    "everything": ("config.yaml", "run: cannot be written: File too large"),
}


@pytest.mark.parametrize(("file", "words"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_full_disk_costs_no_checkpoint(started, tiny, capfd, file, words):
    """No file may become as large as this one was."""
    argv, before = command_line(tiny, started.parent, *MORE), contents(started)
    child = start(argv, file_size_limit=(started / file).stat().st_size // 2)
    child.join()
    assert child.exitcode == 2
    assert words in sentence(capfd.readouterr().err)
    assert_same(contents(started), before)
    assert not list(started.glob("checkpoints/.*"))
    train_sac.main(argv)  # there is room again
    assert contents(started)["counters"]["env_steps"] == 1600
