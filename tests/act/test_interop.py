"""Our training beside `lerobot-train`: the same weights, and either goes on where the other stopped."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import train_act
from common.untrusted import load_json
from tests.act import interop
from tests.act.interop import (
    ACT,
    HALF,
    KEYPOINTS_ENV,
    STEPS,
    assert_evaluate_agrees,
    lerobot_evaluates,
    lerobot_goes_on,
    lerobot_trains,
    weights,
)
from tests.adam import assert_same_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rounding_makes_no_steps")]
OPTIMIZER = {"lr_backbone": 1e-4, "schedule": "constant", "warmup_steps": 0}


def we_train(dataset: Path, logs: Path, steps: int, *flags: str) -> Path:
    return interop.we_train(dataset, logs, steps, ACT | {"backbone_weights": "none"}, OPTIMIZER, *flags)


@pytest.fixture(scope="module")
def datasets(make_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    return {
        "state": make_dataset(folder / "state"),
        "image": make_dataset(folder / "image", pictures=32, keypoints=False),
    }


@pytest.fixture(scope="module")
def theirs(datasets, tmp_path_factory) -> Path:
    """What `lerobot-train` makes of the dataset without a stop."""
    return lerobot_trains(datasets["state"], tmp_path_factory.mktemp("theirs") / "run", STEPS)


def test_we_learn_what_lerobot_train_learns(datasets, theirs, tmp_path):
    assert_same_weights(weights(we_train(datasets["state"], tmp_path, STEPS)), weights(theirs))


def test_we_go_on_where_lerobot_train_stopped(datasets, theirs, tmp_path):
    half = theirs.parent / f"{HALF:06d}"
    ours = we_train(datasets["state"], tmp_path / "logs", STEPS, "--start-from", str(half), "--seed", "99")
    assert_same_weights(weights(ours), weights(theirs))
    with pytest.raises(AssertionError):
        assert_same_weights(weights(half), weights(theirs))


def test_lerobot_train_goes_on_where_we_stopped_and_we_after_it(datasets, tmp_path, monkeypatch):
    rates, summary = {HALF: 0.5, STEPS: 0.4}, train_act.Evaluation.summary
    monkeypatch.setattr(
        train_act.Evaluation,
        "summary",
        lambda *arguments: summary(*arguments) | {"success_rate": rates.pop(min(rates))},
    )
    theirs = lerobot_trains(datasets["state"], tmp_path / "theirs", HALF)
    ours = we_train(datasets["state"], tmp_path, HALF, "--training.keep-every", "2")
    for checkpoint in (ours, theirs):
        lerobot_goes_on(checkpoint, STEPS - 1)
        assert checkpoint.resolve().name == f"{STEPS - 1:06d}"
    assert_same_weights(weights(ours), weights(theirs))
    again = we_train(datasets["state"], tmp_path, STEPS, "--training.keep-every", "2")
    assert load_json(again / "training_state" / "training_step.json")["step"] == STEPS
    assert (again.parent / "best").resolve().name == f"step_{HALF:08d}"
    assert load_json(again / "training_state" / "trainer.json")["kept"] == ["step_00000002", "step_00000006"]
    assert (again.parent / "step_00000002").is_dir()


def test_lerobot_train_goes_on_with_schedule_average_and_batch_norms(datasets, tmp_path):
    half = we_train(
        datasets["image"], tmp_path, HALF, "--optimizer.ema", "0.9", "--optimizer.schedule", "cosine"
    )
    state = load_file(half / "training_state" / "trainer.safetensors")
    assert any(name.startswith("norms.") for name in state), "the batch norms should have been trained"
    lerobot_goes_on(half, STEPS)
    assert half.resolve().name == f"{STEPS:06d}"
    rates = load_json(half / "training_state" / "scheduler_state.json")["_last_lr"]
    assert rates[0] < 1e-3


def push(checkpoint: Path) -> None:
    """Let the policy send the agent right through the T, as it lies with seed 1000."""
    folder = checkpoint / "pretrained_model"
    (file,) = folder.glob("policy_postprocessor*.safetensors")
    actions, changed = load_file(file), load_file(folder / "model.safetensors")
    target = torch.tensor([419.0, 286.0])
    changed["model.action_head.weight"] *= 0.1
    changed["model.action_head.bias"] = (target - actions["action.mean"]) / actions["action.std"]
    save_file(changed, folder / "model.safetensors")


def test_evaluate_and_lerobot_eval_play_either_and_agree(datasets, theirs, tmp_path):
    ours = we_train(datasets["state"], tmp_path / "logs", 1, "--optimizer.ema", "0.9")
    copy = shutil.copytree(theirs.parents[1], tmp_path / "copy", symlinks=True)
    for name, checkpoint in (("ours", ours), ("theirs", copy / "checkpoints" / "last")):
        push(checkpoint)
        output = tmp_path / name
        lerobots = lerobot_evaluates(checkpoint / "pretrained_model", output / "lerobot", KEYPOINTS_ENV)
        assert_evaluate_agrees(checkpoint.parent.parent, output, lerobots)
