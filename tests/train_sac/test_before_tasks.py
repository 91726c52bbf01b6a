"""A run that was trained before there were several tasks: a step of 600, of the tiny configuration."""

import shutil
from pathlib import Path

import pytest
import torch

import train_sac
from common.untrusted import load_json, load_tensors
from envs.pusht.task import PushT
from policies import load_policy
from sac.checkpoint import write

BEFORE = Path(__file__).parent / "run_before_tasks"
FORMER_NAMES = {"env.targets": "env.actions"}


@pytest.fixture
def before(tmp_path) -> Path:
    return Path(shutil.copytree(BEFORE, tmp_path / "half", symlinks=True))


def test_its_policy_plays(before):
    policy, config = load_policy(before), load_json(before / "checkpoints/last/config.json")
    assert policy.task == PushT(
        features=tuple(config["features"]),
        action_bound=config["action_bound"],
        speed_limit=(config["speed_limit"], config["speed_limit"]),
        mirror=False,
    )
    assert "task" not in config and config["action_mode"] == "relative" and config["action_frame"] == "block"


def test_it_is_resumed_with_all_that_it_holds(before, capsys):
    """Loaded and saved, its state is what it was, under today's names; and it trains on."""
    flags = ["--config", str(before / "config.yaml"), "--logs", str(before.parent)]
    config = train_sac.read_config(flags)
    trainer = train_sac.build_trainer(config, before)
    trainer.load(before / "checkpoints/last")
    (before.parent / "again").mkdir()
    write(trainer, before.parent / "again")
    saved, now = (
        load_tensors(folder / "training_state/tensors.safetensors")
        for folder in (before / "checkpoints/last", before.parent / "again")
    )
    saved = {FORMER_NAMES.get(name, name): tensor for name, tensor in saved.items()}
    assert now.keys() - saved.keys() == {"window.durations", "smoothing.averages"}
    for name, tensor in saved.items():
        torch.testing.assert_close(now[name], tensor, rtol=0, atol=0, equal_nan=True, msg=name)
    assert (now["window.durations"] == torch.arange(1, config.agent.n_step + 1)[:, None]).all()
    assert not now["smoothing.averages"].any()

    assert train_sac.main([*flags, "--total-env-steps", "700"])
    assert "resuming from" in capsys.readouterr().out
    assert load_json(before / "checkpoints/last/config.json")["task"] == "pusht"
