"""A second kind of policy is one more file in `act/kinds/`: here `tests/act/kinds/linear.py`."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import act.kinds
import evaluate
import train_act
from act.dataset import DatasetConfig, features_of, open_dataset
from act.frames import Frames
from act.kinds.act import PolicyConfig, act_config
from act.opening import load_player
from common.untrusted import load_json, load_tensors
from envs.pendulum import Pendulum
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from tests.runs import metrics, sentence

FLAGS = "--policy.type linear --optimizer.warmup-steps 0 --batch-size 4 --device cpu --training.log-every 5"
FLAGS += " --training.eval-every 0 --training.eval-episodes 1 --training.video-every 0 --optimizer.ema 0"
INPUTS = ("observation.state", "observation.environment_state")


@pytest.fixture
def more_kinds(monkeypatch):
    monkeypatch.setattr(act.kinds, "__path__", [*act.kinds.__path__, str(Path(__file__).parent / "kinds")])


@pytest.fixture
def config(tmp_path, make_dataset) -> Path:
    root = make_dataset(tmp_path / "data")
    file = tmp_path / "linear.yaml"
    file.write_text(f"dataset: {{root: {root}}}\nlogs: {tmp_path}\nrun_name: run")
    return file


@pytest.mark.slow
def test_it_trains_resumes_and_plays(more_kinds, config, tmp_path, monkeypatch):
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=6))
    train = ["--config", str(config), *FLAGS.split()]
    constant = ["--optimizer.schedule", "constant"]
    assert train_act.main([*train, *constant, "--steps", "10"])
    assert train_act.main([*train, *constant, "--steps", "20"])
    assert train_act.main([*train, *constant, "--steps", "20", "--run-name", "whole"])
    last, whole = (tmp_path / name / "checkpoints" / "last" / "pretrained_model" for name in ("run", "whole"))
    resumed, at_once = (load_tensors(folder / "model.safetensors") for folder in (last, whole))
    assert all(torch.equal(resumed[name], at_once[name]) for name in at_once)
    assert [int(row["step"]) for row in metrics(tmp_path / "run") if row.get("Loss/mse")] == [5, 10, 15, 20]
    numbers = tmp_path / "numbers.json"
    evaluate.main(f"--policy {last} --episodes 2 --output {tmp_path} --json {numbers}".split())
    assert load_json(numbers)["n_action_steps"] == 2

    # What it plays, written out: the observations of now and of the step before, times the weights.
    player, weights = load_player(last, PushT()), at_once
    stats = open_dataset(DatasetConfig(root=tmp_path / "data"), PushT()).stats
    rng, seen, chunk = np.random.default_rng(0), None, None
    player.reset(np.arange(3))
    for step in range(7):
        raw = {"agent_pos": rng.uniform(0, 512, (3, 2)), "keypoints": rng.uniform(0, 512, (3, 8, 2))}
        if step == 4:
            player.reset(np.arange(3))
        values = [raw["agent_pos"], raw["keypoints"].reshape(3, 16)]
        now = [(v - stats[n]["mean"]) / stats[n]["std"] for n, v in zip(INPUTS, values, strict=True)]
        before, seen = (now if step in (0, 4) else seen), now
        if step % 2 == 0:
            inputs = np.concatenate([part for pair in zip(before, now, strict=True) for part in pair], axis=1)
            outputs = inputs @ weights["layer.weight"].numpy().T + weights["layer.bias"].numpy()
            chunk = outputs.reshape(3, 4, 2) * stats["action"]["std"] + stats["action"]["mean"]
        np.testing.assert_allclose(player.act(raw), np.clip(chunk[:, step % 2], 0, 512), atol=1e-2)


def test_it_learns_another_task_which_its_checkpoint_names(more_kinds, config, make_dataset, tmp_path):
    root = make_dataset(tmp_path / "pendulum", fps=20, state_size=3, action_size=1, keypoints=False)
    flags = f"--task pendulum --policy.inputs observation.state --dataset.root {root} --logs {tmp_path}"
    flags += f" --config {config} {FLAGS}"
    assert train_act.main([*flags.split(), "--steps", "2", "--run-name", "run"])
    numbers = tmp_path / "numbers.json"
    evaluate.main(f"--policy {tmp_path / 'run'} --episodes 1 --output {tmp_path} --json {numbers}".split())
    assert load_json(numbers)["task"] == "Pendulum-v1" and load_json(numbers)["avg_sum_reward"] < 0.0
    player = load_player(tmp_path / "run/checkpoints/last/pretrained_model", Pendulum())
    actions = [player.act({"state": np.full((2, 3), 1e6)}) for _ in range(4)]
    assert set(np.abs(actions).ravel()) == {2.0}, "the action space's bounds"


def test_a_sample_is_what_the_policy_asks_for(more_kinds, config, tmp_path):
    """Two observations, of which an episode's first is repeated, as in LeRobot's dataset."""
    kind, task = act.kinds.find_kind("linear"), PushT()
    dataset = DatasetConfig(root=tmp_path / "data")
    meta = open_dataset(dataset, task)
    with_history = kind.make_config(kind.settings(), features_of(meta), train_act.Config().optimizer, "cpu")
    without = act_config(PolicyConfig(chunk_size=4, n_action_steps=2), features_of(meta), device="cpu")
    cpu, unchanged = torch.device("cpu"), lambda batch: batch
    frames, plain = (
        Frames(meta, c, unchanged, cpu, dataset, tmp_path, task) for c in (with_history, without)
    )
    indices = torch.tensor([0, 1, 8, 9, 10, 25])  # episodes begin at 0, 9 and 14
    batch, here = frames.batch(indices), plain.batch(indices)
    before = plain.batch(torch.tensor([0, 0, 7, 9, 9, 24]))
    for name in INPUTS:
        assert torch.equal(batch[name], torch.stack([before[name], here[name]], dim=1))
    for name in ("action", "action_is_pad"):
        assert torch.equal(batch[name], here[name])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (
            "--policy.type linea",
            "one of act, diffusion, flow, linear, smolvla, got 'linea'; did you mean linear?",
        ),
        ("--policy.type linear --policy.chunk-size 3", "unknown flag --policy.chunk-size"),
        ("--policy.horizon 3", "unknown flag --policy.horizon"),
    ],
)
def test_wrong_names_are_sentences(more_kinds, config, capfd, flags, words):
    with pytest.raises(SystemExit) as stopped:
        train_act.main(["--config", str(config), *flags.split()])
    assert stopped.value.code == 2 and words in sentence(capfd.readouterr().err)


def test_a_kind_whose_package_is_missing_says_how_to_install_it(config, capfd, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "act.kinds.smolvla", raising=False)
    with pytest.raises(SystemExit) as stopped:
        train_act.main(["--config", str(config), "--policy.type", "smolvla"])
    said = "needs the package transformers, which is not installed: make setup-vla"
    assert stopped.value.code == 2 and said in sentence(capfd.readouterr().err)


def test_a_run_of_another_kind_is_not_resumed(more_kinds, config, capfd, monkeypatch):
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=6))
    train_act.main(["--config", str(config), *FLAGS.split(), "--steps", "1"])
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped:
        train_act.main(["--config", str(config), "--steps", "2"])
    assert stopped.value.code == 2 and "config.yaml" in sentence(capfd.readouterr().err)
