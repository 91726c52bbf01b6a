"""Recorded demonstrations in a replay, beside episodes that are played again in the simulator."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import collect_dataset
from act.reader import DatasetReader
from envs.demonstrations import Conversion, DemonstratedEpisode
from envs.pusht.observations import features
from envs.pusht.rewards import keypoint_distance
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from policies import ASSETS
from recording.checks import open_recording
from recording.stored import columns, stored_episodes
from sac.config import AgentConfig
from sac.demonstrations import OfflineConfig, OfflineData, joined
from sac.replay import StateReplay
from sac.replay_buffer import Batch, Pixels

pytestmark = pytest.mark.slow

GAMMA, N_STEP = 0.9, 3
AGENT = AgentConfig(n_step=N_STEP, gamma=GAMMA)
EXPERT = str(ASSETS / "sac_expert_fast")
POLICIES = {
    "expert": (EXPERT, "--hold", "2"),
    "noisy": (EXPERT, "--noise", "6"),
    "random": ("random", "--all"),
}


@pytest.fixture(scope="module", params=POLICIES)
def dataset(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / request.param
    policy, *flags = POLICIES[request.param]
    collect_dataset.main(["--policy", policy, "--root", str(root), "--episodes", "3", *flags])
    return root


def played_again(root, task, repeat):
    """Each transition of the dataset, from the starts' seeds and the actions alone: rows of a Batch."""
    env, opened = PushTVectorEnv(1), open_recording(root)
    rows = []
    for row, table in stored_episodes(opened):
        stored = columns(opened, row, table)
        played = stored.get("sim.action", stored["action"]).astype(float)
        raw, _ = env.reset(seed=[row["seed"]])
        observations, rewards, last = [raw], [], [raw["agent_pos"]]
        success = False
        while len(rewards) < len(played) - 1 and not success:
            env.active[:] = True
            raw, _, _, _, infos = env.step(played[len(rewards)][None])
            success = bool(infos["is_success"][0])
            distance = keypoint_distance(raw, env.goal_keypoints)[0]
            rewards.append(-min(distance, 200.0) / 100 - 0.1 * clearance(raw) / 100 + 5.0 * success)
            observations.append(raw)
        begins = list(range(0, len(rewards), repeat))
        decided = []
        for begin in begins:
            target = played[begin : begin + repeat][: len(rewards) - begin].mean(axis=0)
            move = (target - observations[begin]["agent_pos"][0]) / task.action_bound
            angle = observations[begin]["block_pose"][0, 2]
            turned = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) @ move
            decided.append(np.clip(turned, -1, 1))
            move = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ decided[-1]
            reached = observations[begin]["agent_pos"][0] + task.action_bound * move
            last.append(np.clip(reached, 0, 512)[None])
        ends = [*begins[1:], len(rewards)]
        for i, begin in enumerate(begins):
            j = min(i + N_STEP, len(begins)) - 1
            end = ends[j]
            value = sum(0.1 * GAMMA ** (t - begin) * rewards[t] for t in range(begin, end))
            over = success and end == len(rewards)
            seen, after = (
                features(observations[t] | {"last_target": last[k]}, task.features)[0]
                for t, k in ((begin, i), (end, j + 1))
            )
            rows.append((seen, decided[i], value, after, 0.0 if over else GAMMA ** (end - begin)))
    return [np.array(column) for column in zip(*rows, strict=True)]


def clearance(raw):
    x, y, angle = raw["block_pose"][0]
    centre = np.array([x - 45 * np.sin(angle), y + 45 * np.cos(angle)])
    return max(np.linalg.norm(raw["agent_pos"][0] - centre) - 50.0, 0.0)


def offline(root, task, env, agent=AGENT):
    return OfflineData(OfflineConfig(str(root)), DatasetReader(root, task, env.env), task, env, agent, "cpu")


@pytest.mark.parametrize("repeat", [1, 3])
def test_transitions_are_those_of_the_simulator(dataset, repeat):
    seen = (
        "agent_pos",
        "block_pos",
        "block_rotation",
        "agent_vel_in_block_frame",
        "keypoints",
        "target_lead",
    )
    task = PushT(num_envs=2, features=seen, reward="linear", action_repeat=repeat, mirror=False)
    env = task.training_env(0, GAMMA)
    demonstrations = offline(dataset, task, env)
    replay = demonstrations.replay
    assert isinstance(replay, StateReplay)
    expected = played_again(dataset, task, repeat)
    assert replay.size == demonstrations.conversion.decisions == len(expected[0]) > 20
    for field, values in zip(replay.buffer.held(), expected, strict=True):
        np.testing.assert_allclose(field, values, rtol=1e-4, atol=2e-5)
    assert (expected[-1] == 0).any() == (dataset.name != "random")
    averaged = demonstrations.conversion.averaged
    assert averaged == 0 if repeat == 1 else averaged > len(expected[0]) / 2


@pytest.mark.parametrize("dataset", ["expert"], indirect=True)
def test_rewards_are_smoothed_within_episodes(dataset):
    """An expert's terminate, so each pays in the end what it owes."""
    task = PushT(num_envs=2, mirror=False)
    plain, smoothed = (
        offline(dataset, task, task.training_env(0, GAMMA), agent)
        for agent in (replace(AGENT, n_step=1), replace(AGENT, n_step=1, reward_smoothing=0.5))
    )
    rewards, discounts = (plain.replay.buffer.held()[field].tolist() for field in (2, 4))
    expected, average = [], 0.0
    for reward, discount in zip(rewards, discounts, strict=True):
        average = 0.5 * average + 0.5 * reward
        expected.append(average if discount else 2 * average)
        average = average if discount else 0.0
    assert discounts.count(0.0) == 3
    np.testing.assert_allclose(smoothed.replay.buffer.held()[2], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dataset", ["expert"], indirect=True)
def test_an_episode_of_one_frame_that_goes_on_is_left_out_and_counted(dataset):
    task = PushT(num_envs=2, mirror=False)
    env = task.training_env(0, GAMMA)
    first, second, third = DatasetReader(dataset, task, env.env).episodes()
    start = {name: rows[:1] for name, rows in second.observations.items()}
    rest = (column[:1] for column in (second.actions, second.rewards, second.is_success, second.terminated))
    conversion = Conversion(task.codec(1), env)
    with_start = list(conversion([first, DemonstratedEpisode(start, *rest), third]))
    without = list(Conversion(task.codec(1), env)([first, third]))
    assert conversion.too_short == 1 and conversion.decisions == len(with_start) == len(without)
    for decision, expected in zip(with_start, without, strict=True):
        np.testing.assert_array_equal(decision.actions, expected.actions)
        np.testing.assert_array_equal(decision.next_observations, expected.next_observations)


def test_batches_are_joined_view_by_view():
    def batch(size, first):
        rows = first + torch.arange(size, dtype=torch.float32)
        pixels = [torch.cat([10 * view + rows for view in range(views)]) for views in (2, 3)]
        shown = [Pixels(p[:, None, None, None].expand(-1, 4, 2, 2), p[:, None]) for p in pixels]
        return Batch(shown[0], rows[:, None], rows, shown[1], rows)

    both = joined([batch(3, 0.0), batch(2, 100.0)])
    assert both.rewards.tolist() == [0, 1, 2, 100, 101]
    assert both.actions[:, 0].tolist() == both.discounts.tolist() == both.rewards.tolist()
    for observed, views in ((both.observations, 2), (both.next_observations, 3)):
        expected = [10 * view + row for view in range(views) for row in both.rewards.tolist()]
        assert observed.numbers[:, 0].tolist() == observed.pixels[:, 3, 1, 1].tolist() == expected


@pytest.mark.parametrize(
    ("share", "until", "theirs"), [(0.5, 0, 8), (0.3, 200, 5), (1.0, 0, 16), (0.5, 100, 0)]
)
def test_a_share_of_each_batch_is_demonstrations(share, until, theirs):
    class Source:
        def __init__(self, value):
            self.value, self.drawn = value, []

        def sample(self, count, generator):
            rows = torch.full((count,), self.value)
            return Batch(rows[:, None], rows[:, None], rows, rows[:, None], rows)

    demonstrations = object.__new__(OfflineData)
    demonstrations.device, demonstrations.replay = "cpu", Source(1.0)
    for imitation in (0.0, 2.5):
        demonstrations.config = OfflineConfig("somewhere", share=share, until=until, imitation=imitation)
        batch, imitated = demonstrations.mixed(Source(0.0), 16, 100, torch.Generator())
        assert batch.rewards.tolist() == [0.0] * (16 - theirs) + [1.0] * theirs
        assert imitated is None if not imitation else torch.equal(imitated, 2.5 * batch.rewards)
        batch, imitated = demonstrations.sample(16, torch.Generator())
        assert imitated is None if not imitation else imitated.tolist() == [2.5] * 16
