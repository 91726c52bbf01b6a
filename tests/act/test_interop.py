"""Our training beside `lerobot-train`: the same weights, and either goes on where the other stopped."""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from lerobot.scripts import lerobot_eval, lerobot_train
from safetensors.torch import load_file, save_file

import evaluate
import train_act
from common.untrusted import load_json
from tests.adam import assert_same_weights, raise_epsilon

# Within one epoch of the 26 frames: accelerate makes a resumed lerobot-train 0.6.1 draw from epoch 0.
STEPS, HALF, BATCH = 6, 3, 4
POLICY = {
    "chunk_size": 7,
    "n_action_steps": 3,
    "dim_model": 16,
    "n_heads": 2,
    "dim_feedforward": 16,
    "n_encoder_layers": 1,
    "n_decoder_layers": 1,
    "n_vae_encoder_layers": 1,
    "latent_dim": 4,
}
NORMALIZATION = dict.fromkeys(("VISUAL", "STATE", "ENV", "ACTION"), "MEAN_STD")


@pytest.fixture(scope="module")
def datasets(make_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    return {
        "state": make_dataset(folder / "state"),
        "image": make_dataset(folder / "image", pictures=32, keypoints=False),
    }


def run_lerobot(*flags: str, main: Callable[[], None] = lerobot_train.train) -> None:
    """Its command line, in this process."""
    before, sys.argv = sys.argv, ["lerobot", *flags]
    try:
        main()
    finally:
        sys.argv = before


def lerobot_trains(dataset: Path, output: Path, steps: int) -> Path:
    run_lerobot(
        f"--dataset.repo_id=local/{dataset.name}",
        f"--dataset.root={dataset}",
        "--policy.type=act",
        "--policy.device=cpu",
        "--policy.push_to_hub=false",
        "--policy.pretrained_backbone_weights=null",
        "--policy.optimizer_lr=1e-3",
        "--policy.optimizer_lr_backbone=1e-4",
        f"--policy.normalization_mapping={json.dumps(NORMALIZATION)}",
        *(f"--policy.{name}={value}" for name, value in POLICY.items()),
        f"--output_dir={output}",
        f"--steps={steps}",
        f"--batch_size={BATCH}",
        "--num_workers=0",
        "--seed=5",
        "--env_eval_freq=0",
        f"--save_freq={steps}",
    )
    return output / "checkpoints" / "last"


def lerobot_goes_on(checkpoint: Path, steps: int) -> None:
    file = checkpoint / "pretrained_model" / "train_config.json"
    run_lerobot(f"--config_path={file}", "--resume=true", f"--steps={steps}", "--num_workers=0")


def we_train(dataset: Path, logs: Path, steps: int, *flags: str) -> Path:
    config = logs / "tiny.yaml"
    logs.mkdir(exist_ok=True)
    config.write_text(
        json.dumps(
            {
                "device": "cpu",
                "seed": 5,
                "batch_size": BATCH,
                "dataset": {"root": str(dataset)},
                "policy": POLICY | {"backbone_weights": "none"},
                "optimizer": {
                    "lr": 1e-3,
                    "lr_backbone": 1e-4,
                    "schedule": "constant",
                    "warmup_steps": 0,
                    "ema": 0,
                },
                "training": {"eval_episodes": 1, "video_every": 0},
            }
        )
    )
    flags = [*"--run-name run --logs".split(), str(logs), "--steps", str(steps), *flags]
    assert train_act.main(["--config", str(config), *flags])
    return logs / "run" / "checkpoints" / "last"


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "pretrained_model" / "model.safetensors")


@pytest.fixture(autouse=True, scope="module")
def rounding_makes_no_steps() -> Iterator[None]:
    """Our kernels sum in another order."""
    with pytest.MonkeyPatch.context() as patch:
        raise_epsilon(patch)
        yield


@pytest.fixture(scope="module")
def theirs(datasets, tmp_path_factory) -> Path:
    """What `lerobot-train` makes of the dataset without a stop."""
    return lerobot_trains(datasets["state"], tmp_path_factory.mktemp("theirs") / "run", STEPS)


@pytest.mark.slow
def test_we_learn_what_lerobot_train_learns(datasets, theirs, tmp_path):
    assert_same_weights(weights(we_train(datasets["state"], tmp_path, STEPS)), weights(theirs))


@pytest.mark.slow
def test_we_go_on_where_lerobot_train_stopped(datasets, theirs, tmp_path):
    half = lerobot_trains(datasets["state"], tmp_path / "half", HALF)
    before = weights(half)
    ours = we_train(datasets["state"], tmp_path / "logs", STEPS, "--start-from", str(half), "--seed", "99")
    assert_same_weights(weights(ours), weights(theirs))
    with pytest.raises(AssertionError):
        assert_same_weights(before, weights(theirs))


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_evaluate_and_lerobot_eval_play_either_and_agree(datasets, theirs, tmp_path):
    ours = we_train(datasets["state"], tmp_path / "logs", 1, "--optimizer.ema", "0.9")
    copy = shutil.copytree(theirs.parents[1], tmp_path / "copy", symlinks=True)
    for name, checkpoint in (("ours", ours), ("theirs", copy / "checkpoints" / "last")):
        push(checkpoint)
        numbers, output = tmp_path / f"{name}.json", tmp_path / name
        flags = f"--policy {checkpoint.parent.parent} --env stock --episodes 1 --seed 1000 --output {output}"
        evaluate.main([*flags.split(), "--json", str(numbers)])
        run_lerobot(
            f"--policy.path={checkpoint / 'pretrained_model'}",
            "--policy.device=cpu",
            "--env.type=pusht",
            "--env.obs_type=environment_state_agent_pos",
            "--eval.n_episodes=1",
            "--eval.batch_size=1",
            "--eval.use_async_envs=false",
            "--seed=1000",
            f"--output_dir={output / 'lerobot'}",
            main=lerobot_eval.eval_main,
        )
        lerobots = load_json(output / "lerobot" / "eval_info.json")["overall"]
        measured = load_json(numbers)
        unmoved = 300 * measured["avg_max_reward"]
        assert measured["avg_sum_reward"] != pytest.approx(unmoved, rel=0.02), "the T should have moved"
        for key in ("pc_success", "avg_max_reward", "avg_sum_reward"):
            assert measured[key] == pytest.approx(lerobots[key], rel=1e-3, abs=1e-3), (name, key)
