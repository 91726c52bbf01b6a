"""Trainings and evaluations of ours beside `lerobot-train` and `lerobot-eval`, in this process."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lerobot.scripts import lerobot_eval, lerobot_train
from safetensors.torch import load_file

import evaluate
import train_act
from common.untrusted import load_json

# Within one epoch of the 26 frames: accelerate makes a resumed lerobot-train 0.6.1 draw from epoch 0.
STEPS, HALF, BATCH = 6, 3, 4
ACT = {
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
LEROBOTS_ACT = ACT | {
    "type": "act",
    "pretrained_backbone_weights": None,
    "optimizer_lr": 1e-3,
    "optimizer_lr_backbone": 1e-4,
    "normalization_mapping": NORMALIZATION,
}
EVALUATION = (
    "--policy.device=cpu --env.type=pusht --seed=1000 "
    "--eval.n_episodes=1 --eval.batch_size=1 --eval.use_async_envs=false"
).split()
KEYPOINTS_ENV = "--env.obs_type=environment_state_agent_pos"


def run_lerobot(*flags: str, main: Callable[[], None] = lerobot_train.train) -> None:
    """Its command line, in this process."""
    before, sys.argv = sys.argv, ["lerobot", *flags]
    try:
        main()
    finally:
        sys.argv = before


def lerobot_trains(dataset: Path, output: Path, steps: int, policy: dict = LEROBOTS_ACT) -> Path:
    """Saves every `HALF` steps and at the end; returns the last checkpoint."""
    run_lerobot(
        f"--dataset.repo_id=local/{dataset.name}",
        f"--dataset.root={dataset}",
        "--dataset.video_backend=pyav",
        "--policy.device=cpu",
        "--policy.push_to_hub=false",
        *(
            f"--policy.{name}={value if isinstance(value, str) else json.dumps(value)}"
            for name, value in policy.items()
        ),
        f"--output_dir={output}",
        f"--steps={steps}",
        f"--batch_size={BATCH}",
        "--num_workers=0",
        "--seed=5",
        "--env_eval_freq=0",
        f"--save_freq={HALF}",
    )
    return output / "checkpoints" / "last"


def lerobot_goes_on(checkpoint: Path, steps: int) -> None:
    file = checkpoint / "pretrained_model" / "train_config.json"
    run_lerobot(f"--config_path={file}", "--resume=true", f"--steps={steps}", "--num_workers=0")


def we_train(dataset: Path, logs: Path, steps: int, policy: dict, optimizer: dict, *flags: str) -> Path:
    """Returns the last checkpoint."""
    logs.mkdir(exist_ok=True)
    content = {
        "device": "cpu",
        "seed": 5,
        "batch_size": BATCH,
        "dataset": {"root": str(dataset)},
        "policy": policy,
        "optimizer": {"lr": 1e-3, "ema": 0} | optimizer,
        "training": {"eval_every": 0, "eval_episodes": 1, "video_every": 0},
    }
    (config := logs / "tiny.yaml").write_text(json.dumps(content))
    flags = (*"--run-name run --logs".split(), str(logs), "--steps", str(steps), *flags)
    assert train_act.main(["--config", str(config), *flags])
    return logs / "run" / "checkpoints" / "last"


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return load_file(checkpoint / "pretrained_model" / "model.safetensors")


def lerobot_evaluates(policy: Path, output: Path, *flags: str) -> dict:
    flags = (f"--policy.path={policy}", *EVALUATION, *flags, f"--output_dir={output}")
    run_lerobot(*flags, main=lerobot_eval.eval_main)
    return load_json(output / "eval_info.json")["overall"]


def assert_evaluate_agrees(policy: Path, output: Path, lerobots: dict) -> None:
    """On an episode of keypoints in which the T moves."""
    numbers = output / "numbers.json"
    flags = f"--policy {policy} --env stock --episodes 1 --seed 1000 --output {output} --json {numbers}"
    evaluate.main(flags.split())
    measured = load_json(numbers)
    unmoved = 300 * measured["avg_max_reward"]
    assert measured["avg_sum_reward"] != pytest.approx(unmoved, rel=0.02), "the T should have moved"
    for key in ("pc_success", "avg_max_reward", "avg_sum_reward"):
        assert measured[key] == pytest.approx(lerobots[key], rel=1e-3, abs=1e-3), key
