"""SmolVLA's training beside `lerobot-train`: the same weights, either goes on where the other stopped."""

import json
from pathlib import Path

import pytest
from lerobot.scripts import lerobot_eval

import evaluate
import train_act
from common.config import to_dict
from common.untrusted import load_json
from envs.pusht.vector import PushTVectorEnv
from tests.act.test_interop import (
    BATCH,
    HALF,
    STEPS,
    lerobot_goes_on,
    rounding_makes_no_steps,  # noqa: F401  a fixture
    run_lerobot,
    weights,
)
from tests.act.tiny_vla import settings
from tests.adam import assert_same_weights

LR, LAST_LR, WARMUP = 1e-3, 1e-4, 2


@pytest.fixture(scope="module")
def dataset(make_dataset, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    return make_dataset(folder / "words", pictures=16, keypoints=False, sentences=("push the T", "push"))


@pytest.fixture(autouse=True)
def episodes_are_short(monkeypatch):
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=6))


def policy_settings(vlm: Path) -> dict:
    chosen = to_dict(settings(vlm))
    return {name: value for name, value in chosen.items() if name not in ("type", "inputs", "pretrained")}


def lerobot_trains(dataset: Path, vlm: Path, output: Path, steps: int) -> Path:
    run_lerobot(
        f"--dataset.repo_id=local/{dataset.name}",
        f"--dataset.root={dataset}",
        "--dataset.video_backend=pyav",
        "--policy.type=smolvla",
        "--policy.device=cpu",
        "--policy.push_to_hub=false",
        f"--policy.optimizer_lr={LR}",
        "--policy.optimizer_betas=[0.9, 0.999]",
        "--policy.optimizer_weight_decay=1e-4",
        f"--policy.scheduler_warmup_steps={WARMUP}",
        f"--policy.scheduler_decay_steps={STEPS}",
        f"--policy.scheduler_decay_lr={LAST_LR}",
        *(f"--policy.{name}={json.dumps(value)}" for name, value in policy_settings(vlm).items()),
        f"--output_dir={output}",
        f"--steps={steps}",
        f"--batch_size={BATCH}",
        "--num_workers=0",
        "--seed=5",
        "--env_eval_freq=0",
        f"--save_freq={HALF}",
    )
    return output / "checkpoints" / "last"


def we_train(dataset: Path, vlm: Path, logs: Path, steps: int, *flags: str) -> Path:
    logs.mkdir(exist_ok=True)
    content = {
        "device": "cpu",
        "seed": 5,
        "batch_size": BATCH,
        "dataset": {"root": str(dataset)},
        "policy": {"type": "smolvla"} | policy_settings(vlm),
        "optimizer": {"lr": LR, "warmup_steps": WARMUP, "final_lr_fraction": LAST_LR / LR, "ema": 0},
        "training": {"eval_every": 0, "eval_episodes": 1, "video_every": 0},
    }
    (config := logs / "tiny.yaml").write_text(json.dumps(content))
    flags = (*"--run-name run --logs".split(), str(logs), "--steps", str(steps), *flags)
    assert train_act.main(["--config", str(config), *flags])
    return logs / "run" / "checkpoints" / "last"


@pytest.fixture(scope="module")
def theirs(dataset, vlm, tmp_path_factory) -> Path:
    """What `lerobot-train` makes of the dataset without a stop."""
    return lerobot_trains(dataset, vlm, tmp_path_factory.mktemp("theirs") / "run", STEPS)


@pytest.mark.slow
def test_we_learn_what_lerobot_train_learns(dataset, vlm, theirs, tmp_path):
    assert_same_weights(weights(we_train(dataset, vlm, tmp_path, STEPS)), weights(theirs))


@pytest.mark.slow
def test_we_go_on_where_lerobot_train_stopped(dataset, vlm, theirs, tmp_path):
    half = theirs.parent / f"{HALF:06d}"
    ours = we_train(dataset, vlm, tmp_path / "logs", STEPS, "--start-from", str(half), "--seed", "99")
    assert_same_weights(weights(ours), weights(theirs))
    with pytest.raises(AssertionError):
        assert_same_weights(weights(half), weights(theirs))


@pytest.mark.slow
def test_lerobot_train_goes_on_where_we_stopped(dataset, vlm, theirs, tmp_path):
    half = we_train(dataset, vlm, tmp_path, HALF, "--optimizer.ema", "0.9")
    lerobot_goes_on(half, STEPS)
    assert half.resolve().name == f"{STEPS:06d}"
    assert weights(half).keys() == weights(theirs).keys()


@pytest.mark.slow
def test_evaluate_and_lerobot_eval_play_either(dataset, vlm, theirs, tmp_path):
    ours = we_train(dataset, vlm, tmp_path / "logs", 1)
    for name, checkpoint in (("ours", ours), ("theirs", theirs)):
        numbers, output = tmp_path / f"{name}.json", tmp_path / name
        flags = (
            f"--policy {checkpoint} --task pusht --episodes 1 --seed 1000 --output {output} --json {numbers}"
        )
        evaluate.main(flags.split())
        assert load_json(numbers)["n_action_steps"] == 2
        run_lerobot(
            f"--policy.path={checkpoint / 'pretrained_model'}",
            "--policy.device=cpu",
            "--env.type=pusht",
            "--env.episode_length=6",
            "--env.observation_height=16",
            "--env.observation_width=16",
            "--eval.n_episodes=1",
            "--eval.batch_size=1",
            "--eval.use_async_envs=false",
            f"--output_dir={output / 'lerobot'}",
            main=lerobot_eval.eval_main,
        )
        assert load_json(output / "lerobot" / "eval_info.json")["overall"]["n_episodes"] == 1
