"""Demonstrations with pictures, as LeRobot itself records them."""

import numpy as np
import pytest
import torch
from lerobot.datasets import LeRobotDataset

from act.reader import DatasetReader
from common.errors import UserError
from envs.pixels import PixelConfig
from envs.visual_pendulum import VisualPendulum
from sac.config import AgentConfig
from sac.demonstrations import OfflineConfig, OfflineData
from sac.encoder import EncoderConfig
from sac.frame_replay import FrameReplay

GAMMA, N_STEP, SIDE, LENGTHS = 0.9, 2, 16, (7, 12, 5)
AGENT = AgentConfig(gamma=GAMMA, n_step=N_STEP, encoder=EncoderConfig(shift=0))
ONE = {"dtype": "float32", "shape": (1,), "names": ["value"]}


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A dataset, and its raw observations, torques and rewards by episode."""
    root = tmp_path_factory.mktemp("data") / "pendulum"
    features = {
        "observation.image": {
            "dtype": "image",
            "shape": (SIDE, SIDE, 3),
            "names": ["height", "width", "channel"],
        },
        "observation.state": {"dtype": "float32", "shape": (3,), "names": ["cos", "sin", "speed"]},
        "action": ONE,
        "next.reward": ONE,
    }
    dataset = LeRobotDataset.create("local/pendulum", fps=20, features=features, root=root, use_videos=False)
    env, rng, episodes = VisualPendulum().vector_env(1, SIDE), np.random.default_rng(3), []
    for seed, length in enumerate(LENGTHS):
        raw, _ = env.reset(seed=[seed])
        pictures, torques, rewards = [], [], []
        for _ in range(length):
            torque = rng.uniform(-2, 2, 1).astype(np.float32)
            pictures.append(raw["pixels"][0])
            torques.append(torque)
            frame = {"observation.image": raw["pixels"][0], "observation.state": raw["state"][0]}
            raw, reward, *_ = env.step(torque[None])
            rewards.append(reward[0])
            dataset.add_frame(
                frame | {"action": torque, "next.reward": reward.astype(np.float32), "task": "Hold it up"}
            )
        dataset.save_episode()
        episodes.append((pictures, torques, rewards))
    dataset.finalize()
    return root, episodes


def demonstrations(root, repeat=1, **pixels):
    config = PixelConfig(**{"size": SIDE, "stack": 3} | pixels)
    task = VisualPendulum(num_envs=2, pixels=config, action_repeat=repeat)
    env = task.training_env(0, GAMMA)
    return OfflineData(OfflineConfig(str(root)), DatasetReader(root, task, env.env), task, env, AGENT, "cpu")


@pytest.mark.parametrize("repeat", [1, 2])
def test_transitions_are_those_that_were_played(played, repeat):
    root, episodes = played
    found = demonstrations(root, repeat, grey=False)
    replay, expected = found.replay, []
    assert isinstance(replay, FrameReplay)
    for pictures, torques, rewards in episodes:
        length = len(torques) - 1  # what the last one led to is not stored
        begins = list(range(0, length, repeat))
        ends = [*begins[1:], length]
        seen = [*begins, length]

        def stack(i, pictures=pictures, seen=seen):
            return np.concatenate([pictures[seen[max(i - back, 0)]] for back in (2, 1, 0)], axis=-1)

        for i, begin in enumerate(begins):
            j = min(i + N_STEP, len(begins))
            end = ends[j - 1]
            value = sum(0.1 * GAMMA ** (t - begin) * rewards[t] for t in range(begin, end))
            torque = np.mean(torques[begin : ends[i]]) / 2
            expected.append((torque, value, GAMMA ** (end - begin), stack(i), stack(j)))
    assert replay.size == found.conversion.decisions == len(expected)
    drawn, _ = found.sample(2_000, torch.Generator().manual_seed(0))
    matched = set()
    for row in range(2_000):
        (k,) = (k for k, e in enumerate(expected) if abs(e[0] - float(drawn.actions[row, 0])) < 1e-6)
        _, value, discount, before, after = expected[k]
        assert float(drawn.rewards[row]) == pytest.approx(value, rel=1e-4)
        assert float(drawn.discounts[row]) == pytest.approx(discount, rel=1e-5)
        if k not in matched:
            for observed, pixels in ((drawn.observations, before), (drawn.next_observations, after)):
                shown = 255 * observed.pixels[row].permute(1, 2, 0).numpy()
                np.testing.assert_allclose(shown, pixels, atol=1e-3)
        matched.add(k)
    assert matched == set(range(len(expected)))


def test_mixed_batches_keep_the_memory_format(played):
    found = demonstrations(played[0])
    batch, _ = found.mixed(found.replay, 8, 0, torch.Generator())
    assert batch.observations.pixels.shape == (8, 3, SIDE, SIDE)
    assert batch.observations.pixels.is_contiguous(memory_format=torch.channels_last)


def test_pictures_of_another_size_are_refused(played):
    with pytest.raises(
        UserError, match="its pictures are of shape .16, 16, 3., those of the training .32, 32, 3.: "
    ):
        demonstrations(played[0], size=32)
