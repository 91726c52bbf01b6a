"""A training of networks too small to learn, and what is done to it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import train_sac
from tests.runs import metrics
from tests.train_sac.runs import command_line, contents

TINY = """
total_env_steps: 1200
device: cpu
threads: 1
env:
  num_envs: 2
  features: [agent_pos, block_pos, block_rotation, target_lead]
  speed_limit: [60.0, 20.0]
  speed_ramp: [200, 800]
  curriculum: 0.9  # most episodes begin where they end, so that some succeed
  curriculum_angle: 0.01
  curriculum_distance: 1.0
agent: {hidden_sizes: [16, 16], batch_size: 16, final_lr_fraction: 1.0, final_target_entropy: -2.0}
training:
  start_steps: 100
  utd: 0.1
  greedy_share: 0.5
  detour_share: 0.5
  buffer_capacity: 700
  log_every: 40
  eval_every: 400
  eval_episodes: 2
  video_every: 0
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def uninterrupted(tiny, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed, under the name that it gives itself."""
    logs = tmp_path_factory.mktemp("uninterrupted")
    train_sac.main(["--config", str(tiny), "--logs", str(logs)])
    run = logs / "tiny_seed1"
    assert "Reward/episode" in metrics(run)[-1], "some episode should have run out of time"
    assert 0.0 in contents(run)["tensors"]["replay.discounts"], "some episode should have succeeded"
    return run


@pytest.fixture
def train(tiny, tmp_path) -> Callable[..., None]:
    """Trains in `tmp_path/run`, in this process."""
    return lambda *flags: train_sac.main(command_line(tiny, tmp_path, *flags))


@pytest.fixture
def started(uninterrupted, tmp_path) -> Path:
    """A copy of the finished run, to be spoilt and gone on with."""
    return Path(shutil.copytree(uninterrupted, tmp_path / "run", symlinks=True))
