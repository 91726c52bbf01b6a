"""Mirror images of frames against what the environment shows of mirrored boards."""

import numpy as np
import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies import make_pre_post_processors

from act.dataset import DatasetConfig, features_of, open_dataset
from act.frames import Frames
from act.kinds.act import act_config
from common.errors import UserError
from envs.pendulum import Pendulum
from envs.pusht.vector import PushTVectorEnv
from tests.act.changed import CHUNK, POLICY, TASK, open_ours


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"memory_gb": 0.0}])
@pytest.mark.parametrize("camera", [True, False], ids=["pictures", "keypoints"])
def test_the_mirror_images_are_those_of_mirrored_boards(tmp_path, camera, settings):
    """As the environment observes and draws them; a flipped picture shows them half a pixel from there."""
    boards, actions = random_boards()
    mirrored, answers = mirror_image(boards, actions, 511 if camera else 512)
    real, image = observe(boards), observe(mirrored)
    record_boards(tmp_path / "data", real | {"action": actions}, camera)
    frames, pre, terms = open_ours(tmp_path / "data", tmp_path, mirror=True, **settings)
    count = len(boards)
    assert (frames.num_recorded, frames.num_frames) == (count, 2 * count)

    plain, seen = frames.batch(torch.arange(count)), frames.batch(torch.arange(count, 2 * count))
    unmirrored = open_ours(tmp_path / "data", tmp_path)[0]
    assert frames.fingerprint != unmirrored.fingerprint
    for name, tensor in unmirrored.batch(torch.arange(count)).items():
        assert torch.equal(tensor, plain[name]), name
    expected = normalised(pre, image | {"action": answers})
    for name in set(terms.input_features) - {"observation.image"}:
        torch.testing.assert_close(seen[name], expected[name], atol=1e-4, rtol=0)
    if camera:
        beside = normalised(pre, observe(mirror_image(boards, actions, 512)[0]))["observation.image"]
        off, nearly, unlike = (
            (seen["observation.image"] - other).abs().mean()
            for other in (expected["observation.image"], beside, plain["observation.image"])
        )
        assert off < 0.9 * nearly and off < 0.2 * unlike  # the goal is where it was, half a pixel away
    assert torch.equal(seen["action_is_pad"], plain["action_is_pad"])
    half = count // 2  # the first of two episodes
    steps = (torch.arange(half)[:, None] + torch.arange(CHUNK)).clamp_max(half - 1)
    torch.testing.assert_close(seen["action"][:half], expected["action"][steps], atol=1e-4, rtol=0)

    mixed = frames.batch(order := torch.tensor([3, count + 3, 5, 2 * count - 1]))
    for name, tensor in mixed.items():
        assert torch.equal(tensor, torch.cat([plain[name], seen[name]])[order]), name


def test_a_task_without_a_mirror_image_refuses_it(make_dataset, tmp_path):
    config = DatasetConfig(root=make_dataset(tmp_path / "data"), mirror=True)
    meta = open_dataset(config, TASK)
    pre, _ = make_pre_post_processors(policy := act_config(POLICY, features_of(meta), device="cpu"))
    with pytest.raises(UserError, match="dataset.mirror must be false: Pendulum-v1 has no mirror image"):
        Frames(meta, policy, pre, torch.device("cpu"), config, tmp_path, Pendulum())


def normalised(pre, columns):
    return pre({name: torch.from_numpy(array) for name, array in columns.items()})


def random_boards():
    """Boards (12, 5) and actions (12, 2)."""
    rng = np.random.default_rng(0)
    agent, block, actions = rng.uniform([[[50]], [[150]], [[0]]], [[[150]], [[362]], [[511]]], (3, 12, 2))
    return np.concatenate([agent, block, rng.uniform(-np.pi, np.pi, (12, 1))], axis=1), actions.astype("f4")


def mirror_image(boards, actions, total):
    """Across the diagonal x + y = total, written out."""
    agent, block, angle = boards[:, :2], boards[:, 2:4], boards[:, 4:]
    image = np.concatenate([total - agent[:, ::-1], total - block[:, ::-1], np.pi / 2 - angle], axis=1)
    return image, total - actions[:, ::-1]


def observe(boards):
    """What the environment shows of these boards, under LeRobot's names, as a loader gives it."""
    env = PushTVectorEnv(len(boards), image_size=96)
    raw, _ = env.reset(seed=list(range(len(boards))), options={"states": boards})
    return {
        "observation.state": raw["agent_pos"].astype(np.float32),
        "observation.environment_state": raw["keypoints"].reshape(len(boards), 16).astype(np.float32),
        "observation.image": raw["pixels"].transpose(0, 3, 1, 2).astype(np.float32) / 255.0,
    }


def record_boards(root, columns, camera):
    """Two episodes of them, by LeRobot's own API."""
    names = [
        name
        for name in columns
        if name != ("observation.environment_state" if camera else "observation.image")
    ]
    features = {
        name: {"dtype": "float32", "shape": columns[name].shape[1:], "names": None}
        if name != "observation.image"
        else {"dtype": "image", "shape": (96, 96, 3), "names": ["height", "width", "channel"]}
        for name in names
    }
    dataset = LeRobotDataset.create("local/boards", 10, features, root=root, use_videos=False)
    count = len(columns["action"])
    for index in range(count):
        frame = {name: columns[name][index] for name in names}
        if camera:
            frame["observation.image"] = np.round(frame["observation.image"].transpose(1, 2, 0) * 255).astype(
                np.uint8
            )
        dataset.add_frame(frame | {"task": "push the T"})
        if index in (count // 2 - 1, count - 1):
            dataset.save_episode()
    dataset.finalize()
