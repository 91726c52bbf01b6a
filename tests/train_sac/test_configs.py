"""The shipped configurations: each parses, is built, trains, and saves a policy that can be opened."""

from functools import partial
from pathlib import Path

import pytest

import collect_dataset
import train_sac
from common.config import load_yaml
from common.logger import Logger
from policies import load_policy
from recording.workers import BlockRecorder
from tests.act.tiny import save
from tests.act.tiny_flow import make

pytestmark = pytest.mark.slow

CONFIGS = Path(train_sac.__file__).parent / "configs"
PATHS = [*sorted(CONFIGS.glob("sac_*.yaml")), CONFIGS / "demo.yaml"]


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("steer_*.yaml")), ids=lambda path: path.stem)
def test_the_first_decision_of_those_that_steer(path, tmp_path):
    save(make(), tmp_path / "flow")
    flags = ["--config", str(path), "--device", "cpu", "--offline.dataset", ""]
    config = train_sac.read_config(
        [*flags, "--steering.policy", str(tmp_path / "flow"), "--steering.n-action-steps", "3"]
    )
    trainer = train_sac.build_trainer(config, tmp_path)
    with Logger(tmp_path) as logger:
        assert not trainer.train(logger, stop=iter([False, True]).__next__)
    assert trainer.env_steps == 32 * 3
    assert load_policy(tmp_path).n_action_steps == 3


def demonstrations(path: Path, root: Path, monkeypatch) -> list[str]:
    """Flags that put one short episode in place of the demonstrations that a configuration learns from."""
    own = load_yaml(path)
    if "offline" not in own:
        return []
    monkeypatch.setattr(collect_dataset, "BlockRecorder", partial(BlockRecorder, block_size=1))
    flags = ["--observations", "pixels", "--episodes", "1", "--root", str(root)]
    if own.get("task") == "car_racing":
        flags += ["--task", "car_racing", "--policy", "scripted", "--resolution", "64"]
    collect_dataset.main(flags)
    return ["--offline.dataset", str(root), "--offline.steps", "0"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_first_step_of_a_shipped_configuration(path, tmp_path, monkeypatch):
    own = demonstrations(path, tmp_path / "data", monkeypatch)
    config = train_sac.read_config(["--config", str(path), "--device", "cpu", *own])
    trainer = train_sac.build_trainer(config, tmp_path)
    with Logger(tmp_path) as logger:
        assert not trainer.train(logger, stop=iter([False, True]).__next__)
    assert trainer.env_steps == config.env.num_envs * config.env.action_repeat
    policy = load_policy(tmp_path)
    assert policy.task == config.env
