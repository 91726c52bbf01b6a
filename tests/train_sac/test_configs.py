"""The shipped configurations: each parses, is built, trains, and saves a policy that can be opened."""

from pathlib import Path

import pytest

import train_sac
from common.logger import Logger
from policies import load_policy

CONFIGS = Path(train_sac.__file__).parent / "configs"
PATHS = [*sorted(CONFIGS.glob("sac_*.yaml")), CONFIGS / "demo.yaml"]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_first_step_of_a_shipped_configuration(path, tmp_path):
    config = train_sac.read_config(["--config", str(path), "--device", "cpu"])
    trainer = train_sac.build_trainer(config, tmp_path)
    with Logger(tmp_path) as logger:
        assert not trainer.train(logger, stop=iter([False, True]).__next__)
    assert trainer.env_steps == config.env.num_envs * config.env.action_repeat
    policy = load_policy(tmp_path)
    assert policy.task == config.env
