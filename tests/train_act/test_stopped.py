"""Training ACT from the command line: stopped, killed, gone on with, and started from another."""

import json
import os
import shutil
import signal
from itertools import chain, count
from pathlib import Path

import pytest
import torch
import yaml

import train_act
from act.checkpoint import find_training
from act.sampler import Sampler
from common.checkpoint import Checkpoints
from common.config import load_yaml
from envs.evaluation import Evaluation
from policies import find_checkpoint
from tests.runs import dying, metrics
from tests.train_act.runs import TINY, assert_same, command_line, contents, in_processes

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "dataset, stops",
    [(0, [1]), (0, [3, 7, 8, 19]), pytest.param(32, [3])],
    indirect=["dataset"],
)
def test_stopped_and_resumed_is_the_same_training(train, tmp_path, monkeypatch, uninterrupted, stops):
    learn, steps = train_act.Trainer._learn, count(1)

    def learn_and_signal(trainer):
        learn(trainer)
        if next(steps) in stops:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train_act.Trainer, "_learn", learn_and_signal)
    assert [train() for _ in stops] == [False] * len(stops)
    assert train()
    assert_same(contents(tmp_path / "run"), contents(uninterrupted))
    assert metrics(tmp_path / "run") == metrics(uninterrupted)


def test_killed_ten_times_it_ends_with_the_same_weights(tiny, dataset, tmp_path, monkeypatch, uninterrupted):
    """Each child dies inside a step, by SIGKILL, two steps further than the one before."""
    # Checkpoints at every other step, so that each child gets a little further.
    config = tmp_path / "often.yaml"
    config.write_text(TINY.replace("keep_every: 10", "keep_every: 2"))
    learn = train_act.Trainer._learn
    for stop_at in range(5, 26, 2):

        def learn_or_die(trainer, stop_at=stop_at):
            learn(trainer)
            if trainer.step == stop_at:
                os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(train_act.Trainer, "_learn", learn_or_die)
        (code,) = in_processes(1, command_line(config, dataset, tmp_path))
        assert code == (-signal.SIGKILL if stop_at < 24 else 0)
    ours, theirs = contents(tmp_path / "run"), contents(uninterrupted)
    for parts in (ours, theirs):
        del parts["trainer.json"]["kept"]
    assert_same(ours, theirs)


def test_killed_in_an_evaluation_it_keeps_what_it_learnt(tiny, dataset, tmp_path, monkeypatch, uninterrupted):
    """While episodes are played, and between the log of their numbers and the checkpoint of them."""

    played, logged = (Evaluation, "summary"), (Checkpoints, "add")
    for step, (owner, name), call in ((8, played, 1), (8, logged, 1), (16, played, 2), (24, logged, 2)):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, dying(getattr(owner, name), call))
            assert in_processes(1, command_line(tiny, dataset, tmp_path)) == [-signal.SIGKILL]
        assert contents(tmp_path / "run")["training_step.json"]["step"] == step
    assert in_processes(1, command_line(tiny, dataset, tmp_path)) == [0]
    assert_same(contents(tmp_path / "run"), contents(uninterrupted))
    assert metrics(tmp_path / "run") == metrics(uninterrupted)


def test_processes_stop_together_when_one_is_asked_to_and_go_on(tiny, dataset, tmp_path, monkeypatch):
    """They ask each other where they log; the second of them hears of it in step 3."""
    learn = train_act.Trainer._learn

    def learn_and_signal(trainer):
        learn(trainer)
        if trainer.step == 3 and not trainer.is_main:
            signal.raise_signal(signal.SIGTERM)

    def train(logs):
        flags = "--batch-size 2 --steps 6 --training.log-every 2 --training.eval-every 0"
        return in_processes(2, command_line(tiny, dataset, logs, *flags.split()))

    assert train(tmp_path / "whole") == [0, 0]
    with monkeypatch.context() as patch:
        patch.setattr(train_act.Trainer, "_learn", learn_and_signal)
        assert train(tmp_path / "stopped") == [1, 1]
    assert contents(tmp_path / "stopped" / "run")["training_step.json"]["step"] == 4
    assert train(tmp_path / "stopped") == [0, 0]
    ours, theirs = (contents(tmp_path / name / "run") for name in ("stopped", "whole"))
    assert ours["training_step.json"] == theirs["training_step.json"]
    for name, weight in theirs["model.safetensors"].items():
        assert torch.equal(ours["model.safetensors"][name], weight), name


def test_on_a_disk_without_links_it_goes_on_and_is_started_from(train, tmp_path, monkeypatch, capfd):
    def denied(*arguments, **options):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "symlink", denied)
    assert train("--steps", "4")
    last = tmp_path / "run" / "checkpoints" / "last"
    assert last.read_text() == "step_00000004"
    assert train("--steps", "6")
    assert "at 4 steps" in capfd.readouterr().out
    for start in (tmp_path / "run", last):
        assert train("--steps", "8", "--start-from", str(start), "--run-name", "other", "--no-resume")
        assert "at 6 steps" in capfd.readouterr().out


def test_mirror_images_are_drawn_too_and_in_the_same_order_after_a_stop(train, tmp_path, monkeypatch):
    """26 frames and their images are 13 batches of 4."""
    batch, learn, steps, drawn = train_act.Frames.batch, train_act.Trainer._learn, count(1), []

    def watched(frames, indices):
        drawn.append(indices.tolist())
        return batch(frames, indices)

    def learn_and_signal(trainer):
        learn(trainer)
        if next(steps) == 16 + 5:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(train_act.Frames, "batch", watched)
    monkeypatch.setattr(train_act.Trainer, "_learn", learn_and_signal)
    flags = ("--dataset.mirror", "--steps", "16")
    assert train(*flags, "--run-name", "whole")
    assert not train(*flags) and train(*flags)
    whole, stopped = drawn[:16], drawn[16:]
    assert whole == stopped
    assert sorted(chain(*whole[:13])) == list(range(52))


def test_a_run_from_before_tasks_and_renamed_settings_is_resumed(train, tmp_path):
    """Its configuration has no task, and former names of settings, which flags may have too."""
    names = {"log": "log_freq", "eval": "eval_freq", "keep": "save_freq", "video": "video_freq"}
    assert train("--training.save-freq", "10", "--steps", "12", "--optimizer.schedule", "constant")
    file = tmp_path / "run" / "config.yaml"
    config = load_yaml(file)
    assert config.pop("task") == "pusht" and config["dataset"].pop("recorded_by") == ""
    loop = config["training"]
    config["training"] = {names.get(name.removesuffix("_every"), name): loop[name] for name in loop}
    file.write_text(yaml.safe_dump(config))
    (tmp_path / "run/checkpoints/last/pretrained_model/task.json").unlink()
    assert train("--optimizer.schedule", "constant")
    assert contents(tmp_path / "run")["training_step.json"]["step"] == 24
    with pytest.raises(SystemExit):
        train("--optimizer.schedule", "constant", "--training.eval-every", "5")


@pytest.mark.parametrize("leave", [lambda _: None, Path.mkdir, Path.touch], ids=["nothing", "folder", "file"])
def test_a_run_without_its_links_goes_on(train, refused, tmp_path, leave):
    """As some copies are, which else would have been begun anew in place of its checkpoints."""
    constant = ("--optimizer.schedule", "constant")
    train(*constant, "--run-name", "whole")
    train(*constant, "--steps", "16")
    checkpoints = tmp_path / "run" / "checkpoints"
    for name in ("last", "best"):
        (checkpoints / name).unlink()
        leave(checkpoints / name)
    assert find_checkpoint(tmp_path / "run").name == find_training(tmp_path / "run").name == "step_00000016"
    assert train(*constant)
    assert_same(contents(tmp_path / "run"), contents(tmp_path / "whole"))

    for state in checkpoints.glob("step_*/training_state"):
        shutil.rmtree(state)
    (checkpoints / "last").unlink()
    there = {path.name for path in checkpoints.iterdir()}
    assert "has step_00000024 without its training_state, so the run cannot be resumed" in refused(*constant)
    assert {path.name for path in checkpoints.iterdir()} == there


def test_a_finished_training_trains_on(train, tmp_path, uninterrupted):
    """To a larger number of steps; with a constant learning rate as if that had been asked for at once."""
    constant = ("--optimizer.schedule", "constant")
    assert train(*constant, "--steps", "11") and train(*constant)
    trained_on = contents(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert train(*constant)
    at_once = contents(tmp_path / "run")
    for parts in (trained_on, at_once):  # the shorter one was evaluated, and so saved, at its end too
        del parts["trainer.json"], parts["evaluation"]
    assert_same(trained_on, at_once)


@pytest.mark.parametrize("source", ["run", "run/checkpoints/last", "run/checkpoints/last/pretrained_model"])
def test_another_run_starts_from_one_of_ours(train, refused, tmp_path, source, capfd):
    """It has the other's weights and none of its checkpoints."""
    constant = ("--optimizer.schedule", "constant")
    train(*constant, "--steps", "10")
    other = (*constant, "--run-name", "other", "--start-from", str(tmp_path / source))
    trained = "has been trained for 10 steps already: steps must be more, got"
    assert f"{trained} 10" in refused(*other, "--steps", "10")
    capfd.readouterr()
    train(*other, "--steps", "12", "--batch-size", "8")
    assert "batch_size and seed come from that checkpoint" in capfd.readouterr().out
    train(*constant, "--steps", "12")
    ours, theirs = (contents(tmp_path / name) for name in ("other", "run"))
    assert ours["trainer.json"]["kept"] == [] and theirs["trainer.json"]["kept"] == ["step_00000010"]
    for part in ("model.safetensors", "optimizer_state.safetensors"):
        assert all(torch.equal(ours[part][name], tensor) for name, tensor in theirs[part].items())
    kept = {path.name for path in (tmp_path / "other" / "checkpoints").iterdir()}
    assert kept == {"last", "best", "step_00000012"}


def test_another_run_ends_a_falling_learning_rate_later(train, tmp_path):
    """At its own end, as the first one does with more steps."""
    train("--steps", "8")
    train("--run-name", "other", "--start-from", str(tmp_path / "run"), "--steps", "16")
    train("--steps", "16")
    ours, theirs = (contents(tmp_path / name)["model.safetensors"] for name in ("other", "run"))
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


def test_a_training_of_lerobots_without_a_seed_is_gone_on_with(train, tmp_path):
    train("--steps", "2")
    file = tmp_path / "run/checkpoints/last/pretrained_model/train_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seed": None}))
    assert train("--run-name", "other", "--start-from", str(tmp_path / "run"), "--steps", "3")


def test_another_run_goes_on_with_other_data_from_their_first_epoch(train, tmp_path, monkeypatch):
    train("--steps", "3")
    weights = contents(tmp_path / "run")["trainer.safetensors"]
    batch, learn, drawn, first = train_act.Frames.batch, train_act.Trainer._learn, [], []

    def watched(frames, indices):
        drawn.append(indices.tolist())
        return batch(frames, indices)

    def learn_and_look(trainer):
        first.append({name: tensor.clone() for name, tensor in trainer.learner.policy.state_dict().items()})
        learn(trainer)

    monkeypatch.setattr(train_act.Frames, "batch", watched)
    monkeypatch.setattr(train_act.Trainer, "_learn", learn_and_look)
    train("--run-name", "other", "--start-from", str(tmp_path / "run"), "--dataset.mirror", "--steps", "5")
    assert all(torch.equal(tensor, weights[f"weights.{name}"]) for name, tensor in first[0].items())
    assert drawn == [indices.tolist() for indices in Sampler(52, 4, seed=1).epoch(0)[:2]]
    assert contents(tmp_path / "other")["trainer.json"]["drawn"] == 8
