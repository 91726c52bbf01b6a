"""Laps of CarRacing as a LeRobot dataset: what is stored, replayed, and learnt from."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest

import collect_dataset
import train_sac
from envs.car_racing.driver import Driver
from envs.car_racing.task import CarRacing
from recording.dataset import Dataset, Notes
from recording.episodes import RecordingEnv, record_episodes
from recording.schema import IMAGE, Recipe
from recording.verify import verify
from recording.workers import BlockRecorder

SEED = 1_000_001
RECIPE = Recipe(task="car_racing", policy="scripted", seed=SEED, observations="pixels", resolution=32, hold=0)
CONFIG = """
task: car_racing
total_env_steps: 80
device: cpu
threads: 1
env: {num_envs: 1, pixels: {size: 32}}
agent:
  hidden_sizes: [8]
  batch_size: 4
  encoder: {filters: [4, 4], kernels: [4, 3], strides: [4, 2], features: 8}
training: {start_steps: 40, utd: 0.1, buffer_capacity: 100, eval_episodes: 1,
  video_every: 0}
offline: {steps: 2}
"""


@pytest.fixture(scope="module")
def lap(tmp_path_factory):
    """One lap of the scripted driver."""
    driver = Driver()
    episodes = record_episodes(RecordingEnv(1, RECIPE, driver.image_size), driver, [SEED])
    dataset = Dataset(tmp_path_factory.mktemp("laps") / "data", Notes(RECIPE))
    dataset.append(episodes, dataset.notes.after(1, 1, next_seed=SEED + 1))
    return dataset


@pytest.mark.slow
def test_a_lap_is_recorded_as_it_is_driven(lap):
    frames = pd.concat(map(pd.read_parquet, sorted((lap.root / "data").rglob("*.parquet"))))
    env, driver = CarRacing().vector_env(1, Driver.image_size), Driver()
    observations, _ = env.reset(seed=[SEED])
    for t in range(len(frames)):
        row = frames.iloc[t]
        np.testing.assert_array_equal(row["observation.state"], observations["state"][0])
        action = driver.act(observations)
        np.testing.assert_allclose(row["action"], action[0], atol=1e-6)
        observations, rewards, terminated, truncated, infos = env.step(action.astype(np.float32))
        assert row["next.reward"] == pytest.approx(rewards[0])
        assert row["next.success"] == infos["is_success"][0] == terminated[0] == (t == len(frames) - 1)
        assert not truncated.any()
    stored = {name: np.stack(frames[name]) for name in ("next.success", "next.reward")}
    assert list(np.flatnonzero(lap.task.recording.terminated(stored))) == [len(frames) - 1]
    assert frames["next.reward"].sum() > 850


class Halting(Driver):
    """Drives 60 steps."""

    steps = 0

    def __init__(self, stop):
        super().__init__()
        self.stop = stop

    def act(self, observations):
        self.steps += 1
        self.stop[:] = self.steps == 60
        return super().act(observations)


@pytest.mark.slow
def test_a_drive_is_replayed_in_gymnasiums_pictures(tmp_path, capsys):
    env = RecordingEnv(1, replace(RECIPE, all=True), Driver.image_size)
    dataset = Dataset(tmp_path / "data", Notes(env.recipe))
    dataset.append(record_episodes(env, Halting(env.stop), [SEED]), dataset.notes.after(1, 0, SEED + 1))
    assert dataset.frames == 60 and verify(dataset)
    assert "1 of 1 episodes replay exactly in Gymnasium's CarRacing-v3" in capsys.readouterr().out


@pytest.mark.slow
def test_a_lap_is_learnt_from(lap, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text(CONFIG)
    flags = ["--config", tmp_path / "config.yaml", "--logs", tmp_path / "logs", "--run-name", "run"]
    train_sac.main([*map(str, flags), "--offline.dataset", str(lap.root)])
    assert f"1 episodes, {-(-lap.frames // 4)} decisions" in capsys.readouterr().out


def test_what_leaves_the_field_is_worth_nothing_afterwards_and_what_runs_out_of_time_is():
    stored = {"next.success": np.array([False, False]), "next.reward": np.float32([-100.0, -0.1])}
    assert list(CarRacing.recording.terminated(stored)) == [True, False]


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--policy scripted", "observations must be pixels"),
        ("--policy human", "observations must be pixels"),
        ("--policy scripted --observations pixels --hold 5", "hold must be left out: a success ends"),
        ("--import-human . --observations pixels", "no demonstrations from elsewhere"),
    ],
)
def test_what_the_task_has_not_is_refused(flags, sentence, tmp_path, capsys):
    root = tmp_path / "data"
    with pytest.raises(SystemExit):
        collect_dataset.main(["--task", "car_racing", "--root", str(root), *flags.split()])
    assert sentence in capsys.readouterr().err
    assert not root.exists()


@pytest.mark.slow
def test_a_dataset_is_of_laps_that_are_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(collect_dataset, "BlockRecorder", partial(BlockRecorder, block_size=1))
    root = tmp_path / "data"
    flags = "--task car_racing --policy random --all --observations pixels --resolution 16 --episodes 1"
    collect_dataset.main([*flags.split(), "--root", str(root), "--give-up", "1"])
    assert json.loads((root / "meta/recording.json").read_text())["recipe"]["hold"] == 0
    assert (root / "card/contact_sheet.png").exists()
    assert json.loads((root / "meta/info.json").read_text())["features"][IMAGE]["shape"] == [16, 16, 3]
