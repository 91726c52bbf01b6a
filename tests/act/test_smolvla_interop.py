"""SmolVLA's training beside `lerobot-train`: the same weights, either goes on where the other stopped."""

from pathlib import Path

import pytest

import evaluate
from common.config import to_dict
from common.untrusted import load_json
from tests.act import interop
from tests.act.interop import HALF, STEPS, lerobot_evaluates, lerobot_goes_on, lerobot_trains, weights
from tests.act.tiny_vla import settings
from tests.adam import assert_same_weights

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("rounding_makes_no_steps", "short_episodes")]
LAST_LR, WARMUP = 1e-4, 2


@pytest.fixture(scope="module")
def dataset(make_dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    return make_dataset(folder / "words", pictures=16, keypoints=False, sentences=("push the T", "push"))


def policy_settings(vlm: Path) -> dict:
    chosen = to_dict(settings(vlm))
    return {name: value for name, value in chosen.items() if name not in ("type", "inputs", "pretrained")}


def we_train(dataset: Path, vlm: Path, logs: Path, steps: int, *flags: str) -> Path:
    policy = {"type": "smolvla"} | policy_settings(vlm)
    optimizer = {"warmup_steps": WARMUP, "final_lr_fraction": LAST_LR / 1e-3}
    return interop.we_train(dataset, logs, steps, policy, optimizer, *flags)


@pytest.fixture(scope="module")
def theirs(dataset, vlm, tmp_path_factory) -> Path:
    """What `lerobot-train` makes of the dataset without a stop."""
    policy = policy_settings(vlm) | {
        "type": "smolvla",
        "optimizer_lr": 1e-3,
        "optimizer_betas": [0.9, 0.999],
        "optimizer_weight_decay": 1e-4,
        "scheduler_warmup_steps": WARMUP,
        "scheduler_decay_steps": STEPS,
        "scheduler_decay_lr": LAST_LR,
    }
    return lerobot_trains(dataset, tmp_path_factory.mktemp("theirs") / "run", STEPS, policy)


def test_we_learn_what_lerobot_train_learns(dataset, vlm, theirs, tmp_path):
    assert_same_weights(weights(we_train(dataset, vlm, tmp_path, STEPS)), weights(theirs))


def test_we_go_on_where_lerobot_train_stopped(dataset, vlm, theirs, tmp_path):
    half = theirs.parent / f"{HALF:06d}"
    ours = we_train(dataset, vlm, tmp_path / "logs", STEPS, "--start-from", str(half), "--seed", "99")
    assert_same_weights(weights(ours), weights(theirs))
    with pytest.raises(AssertionError):
        assert_same_weights(weights(half), weights(theirs))


def test_lerobot_train_goes_on_where_we_stopped(dataset, vlm, theirs, tmp_path):
    half = we_train(dataset, vlm, tmp_path, HALF, "--optimizer.ema", "0.9")
    lerobot_goes_on(half, STEPS)
    assert half.resolve().name == f"{STEPS:06d}"
    assert weights(half).keys() == weights(theirs).keys()


def test_evaluate_and_lerobot_eval_play_either(dataset, vlm, theirs, tmp_path):
    ours = we_train(dataset, vlm, tmp_path / "logs", 1)
    for name, checkpoint in (("ours", ours), ("theirs", theirs)):
        numbers, output = tmp_path / f"{name}.json", tmp_path / name
        flags = (
            f"--policy {checkpoint} --task pusht --episodes 1 --seed 1000 --output {output} --json {numbers}"
        )
        evaluate.main(flags.split())
        assert load_json(numbers)["n_action_steps"] == 2
        small = "--env.episode_length=6 --env.observation_height=16 --env.observation_width=16".split()
        lerobots = lerobot_evaluates(checkpoint / "pretrained_model", output / "lerobot", *small)
        assert lerobots["n_episodes"] == 1
