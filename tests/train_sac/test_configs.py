"""The shipped configurations: each parses, is built, trains, and saves a policy that can be opened."""

from pathlib import Path

import pytest

import train_sac
from common.logger import Logger
from policies import load_policy
from tests.act.tiny_flow import make, save

pytestmark = pytest.mark.slow

CONFIGS = Path(train_sac.__file__).parent / "configs"
PATHS = [*sorted(CONFIGS.glob("sac_*.yaml")), CONFIGS / "demo.yaml"]


def test_the_first_decision_of_the_one_that_steers(tmp_path):
    save(tmp_path / "flow", make())
    flags = ["--config", str(CONFIGS / "steer_pusht_human.yaml"), "--device", "cpu"]
    config = train_sac.read_config(
        [*flags, "--steering.policy", str(tmp_path / "flow"), "--steering.n-action-steps", "3"]
    )
    trainer = train_sac.build_trainer(config, tmp_path)
    with Logger(tmp_path) as logger:
        assert not trainer.train(logger, stop=iter([False, True]).__next__)
    assert trainer.env_steps == 32 * 3
    assert load_policy(tmp_path).n_action_steps == 3


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_the_first_step_of_a_shipped_configuration(path, tmp_path):
    config = train_sac.read_config(["--config", str(path), "--device", "cpu"])
    trainer = train_sac.build_trainer(config, tmp_path)
    with Logger(tmp_path) as logger:
        assert not trainer.train(logger, stop=iter([False, True]).__next__)
    assert trainer.env_steps == config.env.num_envs * config.env.action_repeat
    policy = load_policy(tmp_path)
    assert policy.task == config.env
