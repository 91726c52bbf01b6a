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
from tests.act.checks import assert_resumes_exactly_and_plays
from tests.runs import last_of_each, metrics

LINEAR = "--policy.type linear --optimizer.ema 0 --training.log-every 5".split()
INPUTS = ("observation.state", "observation.environment_state")


@pytest.fixture
def more_kinds(monkeypatch):
    monkeypatch.setattr(act.kinds, "__path__", [*act.kinds.__path__, str(Path(__file__).parent / "kinds")])


@pytest.mark.slow
def test_it_trains_resumes_and_plays(more_kinds, short_training, tmp_path):
    command_line = [*short_training, *LINEAR]
    last = assert_resumes_exactly_and_plays(command_line, tmp_path, 10, n_action_steps=2)
    last /= "pretrained_model"
    assert [int(row["step"]) for row in metrics(tmp_path / "run") if row.get("Loss/mse")] == [5, 10, 15, 20]

    # What it plays, written out: the observations of now and of the step before, times the weights.
    player, weights = load_player(last, PushT()), load_tensors(last / "model.safetensors")
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


def test_it_learns_another_task_which_its_checkpoint_names(
    more_kinds, short_training, make_dataset, tmp_path
):
    root = make_dataset(tmp_path / "pendulum", fps=20, state_size=3, action_size=1, keypoints=False)
    flags = f"--task pendulum --policy.inputs observation.state --dataset.root {root} --steps 2"
    assert train_act.main(last_of_each([*short_training, *LINEAR, *flags.split()]))
    numbers = tmp_path / "numbers.json"
    evaluate.main(f"--policy {tmp_path / 'run'} --episodes 1 --output {tmp_path} --json {numbers}".split())
    assert load_json(numbers)["task"] == "Pendulum-v1" and load_json(numbers)["avg_sum_reward"] < 0.0
    player = load_player(tmp_path / "run/checkpoints/last/pretrained_model", Pendulum())
    actions = [player.act({"state": np.full((2, 3), 1e6)}) for _ in range(4)]
    assert set(np.abs(actions).ravel()) == {2.0}, "the action space's bounds"


def test_a_sample_is_what_the_policy_asks_for(more_kinds, make_dataset, tmp_path):
    """Two observations, of which an episode's first is repeated, as in LeRobot's dataset."""
    kind, task = act.kinds.find_kind("linear"), PushT()
    dataset = DatasetConfig(root=make_dataset(tmp_path / "data"))
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
def test_wrong_names_are_sentences(more_kinds, short_training, refused_by, flags, words):
    assert words in refused_by(train_act.main, [*short_training, *flags.split()])


def test_a_kind_whose_package_is_missing_says_how_to_install_it(short_training, refused_by, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "act.kinds.smolvla", raising=False)
    said = "needs the package transformers, which is not installed: make setup-vla"
    assert said in refused_by(train_act.main, [*short_training, "--policy.type", "smolvla"])


def test_a_run_of_another_kind_is_not_resumed(more_kinds, short_training, refused_by):
    train_act.main([*short_training, *LINEAR, "--steps", "1"])
    assert "config.yaml" in refused_by(train_act.main, [*short_training, "--steps", "2"])
