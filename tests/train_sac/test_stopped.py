"""Training from the command line: stopped, killed, diverging, on a full disk; and started again."""

import os
import runpy
import shutil
import signal
from itertools import count
from pathlib import Path
from time import perf_counter

import numpy as np
import pytest
import torch

import policies
import train_sac
from common.checkpoint import Checkpoints
from common.untrusted import load_json, load_tensors
from envs.evaluation import Evaluation
from envs.training import TaskTrainingEnv
from tests.runs import dying, sentence
from tests.train_sac.runs import MORE, assert_same, assert_same_run, command_line, contents, start

pytestmark = pytest.mark.slow


def test_signals_stop_it_and_the_same_command_goes_on(uninterrupted, train, tmp_path, monkeypatch, capsys):
    """Before learning begins, before an evaluation, in between and before the last one: bit for bit."""
    step, steps = TaskTrainingEnv.step, count(1)
    signals = {
        14: signal.SIGINT,
        200: signal.SIGTERM,
        294: signal.SIGHUP,
        402: signal.SIGINT,
        600: signal.SIGINT,
    }

    def step_and_be_stopped(env, actions):
        if number := signals.get(next(steps)):
            signal.raise_signal(number)
        return step(env, actions)

    monkeypatch.setattr(TaskTrainingEnv, "step", step_and_be_stopped)
    for stop in signals:
        train()
        assert f"stopped at {2 * stop:,} env steps, saved" in capsys.readouterr().out
    train()
    output = capsys.readouterr().out
    assert "resuming from" in output and "at 1,200 env steps" in output and "finished" in output
    assert_same_run(tmp_path / "run", uninterrupted)


def test_only_a_finished_training_ends_with_zero(tiny, tmp_path, monkeypatch):
    """Else `train_sac.py && evaluate.py` would go on after a Ctrl-C."""
    step, steps = TaskTrainingEnv.step, count(1)

    def step_and_be_stopped(env, actions):
        if next(steps) == 100:
            signal.raise_signal(signal.SIGINT)
        return step(env, actions)

    monkeypatch.setattr(TaskTrainingEnv, "step", step_and_be_stopped)
    monkeypatch.setattr("sys.argv", ["train_sac.py", *command_line(tiny, tmp_path)])
    for code in (1, 0):
        with pytest.raises(SystemExit) as ended:
            runpy.run_path("train_sac.py", run_name="__main__")
        assert ended.value.code == code


def test_a_copied_run_goes_on(uninterrupted, train, tmp_path):
    """Also where the copying followed the links."""
    train("--total-env-steps", "800")
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    train("--run-name", "copy")
    assert_same_run(tmp_path / "copy", uninterrupted)
    checkpoints = tmp_path / "copy" / "checkpoints"
    assert all((checkpoints / name).is_symlink() for name in ("best", "last"))


def test_a_finished_run_goes_on_with_more_steps(uninterrupted, train, tmp_path):
    train("--total-env-steps", "800")
    train("--total-env-steps", "800")  # nothing left to do, nothing changes
    assert contents(tmp_path / "run")["counters"]["env_steps"] == 800
    train()
    assert_same_run(tmp_path / "run", uninterrupted)


def test_a_finished_run_is_finished_when_its_last_decision_went_beyond_its_length(train, refused, capfd):
    """Two environments take an even number of steps; a shorter training than that is refused."""
    total = ("--training.eval-every", "0", "--total-env-steps")
    train(*total, "121")
    before = capfd.readouterr().out
    train(*total, "121")
    assert "finished." in before and "finished." in capfd.readouterr().out
    assert "trained for 122 env steps already: total_env_steps must be more, got 120" in refused(
        *total, "120"
    )


def test_killed_in_an_evaluation_it_keeps_what_it_learnt(uninterrupted, tiny, tmp_path, monkeypatch):
    """While episodes are played, and between the log of their numbers and the checkpoint of them."""

    played, logged = (Evaluation, "summary"), (Checkpoints, "add")
    deaths = ((400, played, 1), (400, logged, 1), (800, played, 2), (1200, logged, 2))
    for steps, (owner, name), call in deaths:
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying(getattr(owner, name), call))
            start(command_line(tiny, tmp_path)).join()
        assert contents(tmp_path / "run")["counters"]["env_steps"] == steps
    train_sac.main(command_line(tiny, tmp_path))
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


def test_on_a_disk_without_links_it_goes_on_and_is_found(uninterrupted, train, tmp_path, monkeypatch, capfd):
    def denied(*arguments, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", denied)
    monkeypatch.setattr(policies, "LOGS", tmp_path)
    train("--total-env-steps", "800")
    assert capfd.readouterr().err.startswith("warning: ") and (tmp_path / "run/checkpoints/last").is_file()
    train()
    assert "at 800 env steps" in capfd.readouterr().out
    best = (uninterrupted / "checkpoints/best").resolve().name
    for way in (tmp_path / "run", tmp_path / "run/checkpoints/best", policies.default_policy()):
        assert policies.find_checkpoint(way) == tmp_path / "run" / "checkpoints" / best
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    monkeypatch.undo()
    for name in ("last", "best"):
        leads = tmp_path / "copy/checkpoints" / name
        target = leads.read_text()
        leads.unlink()
        leads.symlink_to(target)
    assert_same_run(tmp_path / "copy", uninterrupted)


def test_a_disk_that_is_too_small_is_told_before_the_first_step(refused, tmp_path, monkeypatch):
    small = type(shutil.disk_usage(tmp_path))(2**20, 2**20 - 1, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: small)
    monkeypatch.setattr(TaskTrainingEnv, "step", lambda *_: pytest.fail("a step"))
    assert "a checkpoint takes" in refused()


def test_no_resume_begins_anew_beside_it(train, tmp_path):
    short = ("--total-env-steps", "200", "--training.eval-every", "200")
    train(*short)
    first = contents(tmp_path / "run")
    train(*short, "--no-resume", "--seed", "2")
    assert_same(contents(tmp_path / "run"), first)
    second = contents(tmp_path / "run_2")
    assert second["counters"]["env_steps"] == 200
    assert not torch.equal(first["model"]["network.0.weight"], second["model"]["network.0.weight"])


def test_a_training_that_diverges_stops_and_saves(refused, train, tmp_path):
    told = refused("--agent.lr", "1e6", "--agent.actor-ema", "0.5")
    assert "is not finite after" in told and "the state is saved in" in told
    (failed,) = (tmp_path / "run").glob("failed_*")
    assert load_json(failed / "config.json")["trained"]["updates"] > 0
    assert not (tmp_path / "run" / "checkpoints").exists()
    train("--total-env-steps", "120")  # a run without a checkpoint binds no one


@pytest.mark.parametrize("log_every", ["40", "100000"], ids=["found by the log", "found by the checkpoint"])
def test_weights_that_are_not_numbers_stop_it_and_last_stays(refused, started, log_every, monkeypatch):
    load = train_sac.Trainer.load

    def load_and_poison(trainer, folder):
        load(trainer, folder)
        trainer.agent.actor.network[0].weight.data[0, 0] = float("nan")

    monkeypatch.setattr(train_sac.Trainer, "load", load_and_poison)
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
    "logs": ("metrics.csv", "cannot be written: File too large"),
    "everything": ("config.yaml", "run: cannot be written: File too large"),
}


@pytest.mark.parametrize(("file", "words"), TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_full_disk_costs_no_checkpoint(started, tiny, capfd, file, words):
    """No file may become as large as this one was; the settings are written first."""
    argv, before = command_line(tiny, started.parent, *MORE), contents(started)
    first, size = ((started / name).stat().st_size for name in ("config.yaml", file))
    limit = size // 2 if size == first else max(size // 2, first + 300)  # with other names in them
    child = start(argv, file_size_limit=limit)
    child.join()
    assert child.exitcode == 2
    assert words in sentence(capfd.readouterr().err)
    assert_same(contents(started), before)
    assert not list(started.glob("checkpoints/.*"))
    train_sac.main(argv)  # there is room again
    assert contents(started)["counters"]["env_steps"] == 1600
