"""A task that is not PushT: a point on a line, sent to its middle."""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
from gymnasium import spaces
from lerobot.datasets import LeRobotDataset

import recording.schema
from envs.pendulum import Pendulum
from envs.pusht.recording import CARD
from envs.recording import Recording
from recording.card import write_card
from recording.dataset import Dataset, Notes
from recording.episodes import RecordingEnv, record_episodes
from recording.schema import Recipe
from recording.verify import verify

SEEDS = [5, 6, 7]


class PointEnv:
    """x (n, 1) moves 0.2 at most towards the action; success is within 0.1 of 0."""

    def __init__(self, num_envs, hold=0, image_size=0):
        self.num_envs, self.hold, self.image_size = num_envs, hold, image_size
        self.single_action_space = spaces.Box(-2.0, 2.0, (1,), np.float32)
        self.single_observation_space = spaces.Dict({"x": spaces.Box(-2.0, 2.0, (1,), np.float64)})
        self.x, self.active = np.zeros((num_envs, 1)), np.zeros(num_envs, bool)
        self.watched = np.ones(num_envs, bool)
        self.lasting = np.zeros(num_envs, int)

    def observations(self):
        pictures = {"pixels": PointRecording().draw(self.x, self.image_size)} if self.image_size else {}
        return {"x": self.x.copy()} | pictures

    def infos(self):
        progress = 1.0 - np.abs(self.x[:, 0]) / 2.0
        return {"progress": progress, "is_success": progress > 0.95}

    def reset(self, *, seed, options=None):
        options = options or {}
        mask = options.get("reset_mask", np.ones(self.num_envs, bool))
        for i in np.flatnonzero(mask):
            self.x[i] = options.get("x", np.random.default_rng(seed[i]).uniform(1.0, 2.0))
        self.active |= mask
        self.lasting[mask] = 0
        return self.observations(), self.infos()

    def step(self, actions):
        active = self.active.copy()
        self.x[active] += np.clip(actions - self.x, -0.2, 0.2)[active]
        infos = self.infos()
        self.lasting = np.where(infos["is_success"], self.lasting + 1, 0)
        ends = active & (self.lasting > self.hold)
        self.active = active & ~ends
        return self.observations(), infos["progress"], ends, np.zeros_like(ends), infos

    def pictures(self, size, slots):
        return PointRecording().draw(self.x[slots], size)

    frames = pictures


class PointRecording(Recording):
    robot_type, replays_in, unit = "point", "the line", "m"
    card = replace(CARD, action_axes=("x",))
    replay_tolerance = import_tolerance = 1e-6
    ends_at_success, picture_tolerance = False, 0.0
    action = property(lambda self: {"dtype": "float32", "shape": (1,), "names": ["x"]})
    simulator = property(lambda self: {"sim.state": self.action})

    def observations(self, pictures):
        return {"observation.state": self.action}

    def columns(self, observations):
        return {"observation.state": observations["x"], "sim.state": observations["x"]}

    def env(self, num_envs, image_size=0, hold=0):
        return PointEnv(num_envs, hold)

    def resting_actions(self, observations):
        return observations["x"]

    def difference(self, observations, stored, exact):
        return float(np.abs(observations["x"][0] - stored["sim.state"]).max())

    def draw(self, states, size):
        shades = np.rint(100 * np.abs(states[:, 0])).astype(np.uint8)
        return np.broadcast_to(shades[:, None, None, None], (len(states), size, size, 3)).copy()


@dataclass(frozen=True)
class Point(Pendulum):
    name: ClassVar = "Point"
    sentence: ClassVar = "Go to the middle."
    fps: ClassVar = 4
    progress_name: ClassVar = "nearness"
    progress_goal: ClassVar = 0.95
    recording: ClassVar = PointRecording()

    def vector_env(self, num_envs, image_size=0, stock=False):
        return PointEnv(num_envs, image_size=image_size)


class Middle:
    n_action_steps, image_size, history = 1, 0, 1

    def seed_slots(self, seeds):
        pass

    def reset(self, slots):
        pass

    def act(self, observations):
        return np.full_like(observations["x"], -0.05)


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    monkeypatch.setattr(recording.schema, "task_class", {"point": Point}.__getitem__)
    recipe = Recipe(task="point", policy="middle", seed=5, observations="pixels", resolution=32, hold=2)
    episodes = record_episodes(RecordingEnv(len(SEEDS), recipe), Middle(), SEEDS)
    dataset = Dataset(tmp_path / "data", Notes(recipe))
    dataset.append(episodes, dataset.notes.after(3, 3, next_seed=8))
    return dataset


def test_another_task_is_recorded(dataset):
    opened = LeRobotDataset("local/point", root=dataset.root)
    assert (opened.fps, opened.meta.robot_type) == (4, "point")
    assert opened[0]["task"] == "Go to the middle."
    rows, pictures = opened.hf_dataset.with_format("numpy")[:], []
    for episode, seed in enumerate(SEEDS):
        x, success = np.random.default_rng(seed).uniform(1.0, 2.0), []
        own = np.flatnonzero(rows["episode_index"] == episode)
        for t in own:
            np.testing.assert_allclose(rows["observation.state"][t], x, atol=1e-6)
            action = x if success and success[-1] else -0.05
            np.testing.assert_allclose(rows["action"][t], action, atol=1e-6)
            pictures.append(round(100 * abs(x)))
            x += np.clip(action - x, -0.2, 0.2)
            success.append(abs(x) < 0.1)
            np.testing.assert_allclose(rows["next.reward"][t], 1 - abs(x) / 2, atol=1e-6)
            np.testing.assert_allclose(rows["timestamp"][t], (t - own[0]) / 4)
        assert list(rows["next.success"][own]) == success
        assert success[-3:] == [True] * 3 and sum(success) == 3  # held for two further steps
        np.testing.assert_allclose(opened.meta.episodes["max_nearness"][episode], 1 - abs(x) / 2)
    for index in (0, len(opened) // 2, len(opened) - 1):
        np.testing.assert_allclose(opened[index]["observation.image"] * 255, pictures[index], atol=1e-3)


def test_another_task_is_replayed(dataset, capsys):
    assert verify(dataset)
    assert "3 of 3 episodes replay exactly in the line" in capsys.readouterr().out


def test_another_task_has_a_card(dataset):
    dataset.add_card(lambda folder: write_card(folder, dataset, ""))
    card = (dataset.root / "README.md").read_text()
    assert "at 4 Hz" in card and "| episodes | 3, of which 3 " in card
