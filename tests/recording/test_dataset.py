import errno
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from imageio.v3 import imread
from lerobot.datasets import LeRobotDataset
from lerobot.datasets.aggregate import aggregate_datasets
from lerobot.datasets.compute_stats import sample_indices
from lerobot.utils.feature_utils import dataset_to_policy_features

import recording.dataset
import recording.versions
from common.errors import UserError
from envs.pusht.task import PushT
from recording.checks import open_recording
from recording.schema import IMAGE, features

TASK = "Push the T-shaped blue block onto the T-shaped green target surface."

# meta/info.json of lerobot/pusht on the Hub, without the codec of its video
LEROBOT_PUSHT = {
    "observation.image": ("video", [96, 96, 3], ["height", "width", "channel"]),
    "observation.state": ("float32", [2], {"motors": ["motor_0", "motor_1"]}),
    "action": ("float32", [2], {"motors": ["motor_0", "motor_1"]}),
    "episode_index": ("int64", [1], None),
    "frame_index": ("int64", [1], None),
    "timestamp": ("float32", [1], None),
    "next.reward": ("float32", [1], None),
    "next.done": ("bool", [1], None),
    "next.success": ("bool", [1], None),
    "index": ("int64", [1], None),
    "task_index": ("int64", [1], None),
}


def by_lerobot(root, ours, episodes):
    """The same episodes, written by LeRobot's recorder."""
    wanted = features(PushT(), ours.notes.recipe)
    dataset = LeRobotDataset.create(
        "local/theirs", 10, wanted, root=root, robot_type="unknown", use_videos=ours.notes.recipe.video
    )
    for episode in episodes:
        for t in range(len(episode)):
            frame = {n: np.atleast_1d(v[t]) for n, v in episode.columns.items() if n in wanted}
            if IMAGE in wanted:
                frame[IMAGE] = imread(episode.pictures[t])
            dataset.add_frame(frame | {"task": TASK})
        dataset.save_episode()
    dataset.finalize()


def assert_same(ours, theirs, ignore=(), where=""):
    """Equal but for what LeRobot's statistics lose in float32."""
    if isinstance(theirs, dict):
        assert theirs.keys() - ours.keys() <= set(ignore)
        for name, value in theirs.items():
            if name not in ignore:
                assert_same(ours[name], value, ignore, f"{where}.{name}")
    elif isinstance(theirs, list) and theirs and isinstance(theirs[0], dict):
        assert len(ours) == len(theirs)
        for one, other in zip(ours, theirs, strict=True):
            assert_same(one, other, ignore, where)
    elif isinstance(theirs, list | float):
        if theirs and isinstance(theirs, list) and isinstance(theirs[0], str):
            assert ours == theirs
        else:
            np.testing.assert_allclose(ours, theirs, rtol=4e-3, atol=2e-5, err_msg=where)
    else:
        assert ours == theirs


def test_statistics_of_pictures_are_exact(record_block, new_dataset, contents):
    episodes, dataset = record_block(noise=3.0), new_dataset(noise=3.0)
    dataset.append(episodes[:1], dataset.notes)
    dataset.append(episodes[1:], dataset.notes)
    seen = [imread(episode.pictures[i]) for episode in episodes for i in sample_indices(len(episode))]
    stats = contents(dataset.root)["stats"][IMAGE]
    assert stats["count"] == [len(seen)]
    for name in ("mean", "std"):
        expected = getattr(np.stack(seen).astype(np.float64) / 255, name)(axis=(0, 1, 2))
        np.testing.assert_allclose(np.ravel(stats[name]), expected, rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("observations", ["pixels", "keypoints"])
def test_it_is_what_lerobot_would_have_written(observations, record_block, new_dataset, tmp_path, contents):
    episodes = record_block(observations=observations, noise=3.0)
    dataset = new_dataset(observations=observations, noise=3.0)
    dataset.append(episodes[:1], dataset.notes)
    dataset.append(episodes[1:], dataset.notes)
    by_lerobot(tmp_path / "theirs", dataset, episodes)
    ours, theirs = contents(dataset.root), contents(tmp_path / "theirs")
    assert ours["data"] == theirs["data"]  # to the last byte of the pictures
    assert_same(ours, theirs, ignore={"notes"})
    extra = ours["meta/episodes"][0].keys() - theirs["meta/episodes"][0].keys()
    assert extra == {"seed", "success", "max_coverage"}


@pytest.mark.slow
def test_lerobot_opens_it_and_batches_it(block, new_dataset, monkeypatch):
    monkeypatch.setattr(recording.dataset, "FRAMES_PER_FILE", 40)
    monkeypatch.setattr(recording.dataset, "EPISODES_PER_FILE", 3)
    dataset = new_dataset()
    for first in range(0, 8, 2):
        dataset.append(block[first : first + 2], dataset.notes)
    assert len(list(dataset.root.rglob("data/*/*.parquet"))) > 2
    opened = LeRobotDataset("local/any", root=dataset.root, delta_timestamps={"action": [0.0, 0.1, 0.2]})
    assert (opened.num_episodes, opened.num_frames) == (8, sum(map(len, block)))
    frames = [(episode, t) for episode in block for t in range(len(episode))]
    for index, (episode, t) in list(enumerate(frames))[::7]:
        item = opened[index]
        picture = imread(episode.pictures[t]).transpose(2, 0, 1) / 255.0
        np.testing.assert_allclose(item[IMAGE], picture, atol=1e-6)
        np.testing.assert_array_equal(item["action"][0], episode.columns["action"][t])
        assert item["task"] == TASK and item["next.done"] == (t == len(episode) - 1)
    batch = next(iter(torch.utils.data.DataLoader(opened, batch_size=16, shuffle=True)))
    assert batch[IMAGE].shape == (16, 3, 32, 32) and batch["action"].shape == (16, 3, 2)


@pytest.mark.slow
def test_when_it_was_saved_leaves_no_trace(block, new_dataset, monkeypatch):
    monkeypatch.setattr(recording.dataset, "FRAMES_PER_FILE", 60)
    at_once, bit_by_bit = new_dataset("at_once"), new_dataset("bit_by_bit")
    at_once.append(block, at_once.notes)
    for episode in block:
        bit_by_bit.append([episode], bit_by_bit.notes)
    files = {path.relative_to(at_once.root) for path in at_once.root.rglob("*") if path.is_file()}
    assert files == {p.relative_to(bit_by_bit.root) for p in bit_by_bit.root.rglob("*") if p.is_file()}
    for path in files:
        assert (at_once.root / path).read_bytes() == (bit_by_bit.root / path).read_bytes(), path


@pytest.mark.slow
@pytest.mark.parametrize("video", [False, True])
def test_it_is_what_lerobot_makes_of_shards(video, record_block, new_dataset, tmp_path, contents):
    episodes = record_block(video=video)
    whole = new_dataset("whole", video=video)
    whole.append(episodes[:2], whole.notes)
    whole.append(episodes[2:], whole.notes)
    shards = [new_dataset(f"shard{number}", video=video) for number in range(2)]
    for number, shard in enumerate(shards):
        shard.append(episodes[2 * number : 2 * number + 2], shard.notes)
    roots = [shard.root for shard in shards]
    aggregate_datasets([f"local/{r.name}" for r in roots], "local/all", roots, tmp_path / "all")
    ours, theirs = contents(whole.root), contents(tmp_path / "all")
    assert ours["data"] == theirs["data"]
    # Of these two, LeRobot mixes the statistics that the shards had by themselves.
    assert_same(ours["stats"], theirs["stats"], ignore={"index", "episode_index"})
    assert_same(ours["meta/episodes"], theirs["meta/episodes"])
    if video:
        one, other = (
            LeRobotDataset("local/any", root=r, video_backend="pyav") for r in (whole.root, tmp_path / "all")
        )
        for index in (0, len(episodes[0]), one.num_frames - 1):
            np.testing.assert_array_equal(one[index][IMAGE], other[index][IMAGE])


def test_video_frames_are_those_that_were_encoded(record_block, new_dataset):
    episodes = record_block(video=True)
    dataset = new_dataset(video=True)
    dataset.append(episodes[:3], dataset.notes)
    dataset.append(episodes[3:], dataset.notes)
    opened = LeRobotDataset("local/any", root=dataset.root, video_backend="pyav")
    pictures = [imread(png) for episode in episodes for png in episode.pictures]
    for index in range(0, len(pictures), 9):
        seen = opened[index][IMAGE].numpy().transpose(1, 2, 0) * 255
        distances = [np.abs(seen - picture).mean() for picture in pictures]
        assert distances[index] < 6 and distances[index] <= min(distances) + 1


def test_the_last_episode_taken_back_was_never_there(block, new_dataset, contents, monkeypatch):
    monkeypatch.setattr(recording.dataset, "FRAMES_PER_FILE", 30)
    dataset, other = new_dataset("dataset"), new_dataset("other")

    def append(dataset, episodes):
        successes = dataset.notes.successes + sum(episode.success for episode in episodes)
        dataset.append(episodes, replace(dataset.notes, successes=successes))

    append(dataset, block[:4])
    for _ in range(3):
        dataset.drop_last()
        append(dataset, block[4:5])
        dataset.drop_last()
    append(dataset, block[5:])
    append(other, [block[0], *block[5:]])
    assert contents(dataset.root) == contents(other.root)
    for _ in range(4):
        dataset.drop_last()
    assert not dataset.root.exists() and dataset.episodes == 0


def test_ctrl_c_during_a_save_waits_until_it_is_known_what_was_saved(block, new_dataset, monkeypatch):
    dataset = new_dataset()

    def flush(path):
        if path == dataset.root.parent:  # the new version is in place
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(recording.versions, "flush", flush)
    for episodes in (block[:2], block[2:]):
        with pytest.raises(KeyboardInterrupt):
            dataset.append(episodes, dataset.notes)
        assert dataset.episodes == LeRobotDataset("local/any", root=dataset.root).num_episodes
    with pytest.raises(KeyboardInterrupt):
        dataset.drop_last()
    assert dataset.episodes == len(block) - 1


@pytest.mark.slow
def test_a_dataset_on_two_disks_grows(block, new_dataset, contents, monkeypatch, tmp_path):
    """Its frames are moved to another disk and linked back, in one piece or in several."""
    monkeypatch.setattr(recording.dataset, "FRAMES_PER_FILE", 30)
    whole, linked = new_dataset("whole"), new_dataset("linked")
    for start, name in enumerate(
        ("data", "data/chunk-000", "meta/episodes", "meta", "data/chunk-000/file-000.parquet")
    ):
        for dataset in (whole, linked):
            dataset.append(block[start : start + 1], dataset.notes)
        moved = (linked.root / name).rename(tmp_path / f"moved_{start}")
        (linked.root / name).symlink_to(moved)
        linked = open_recording(linked.root)
    for dataset in (whole, linked):
        dataset.append(block[5:], dataset.notes)
    assert contents(linked.root) == contents(whole.root)


def test_less_never_takes_the_place_of_more(block, new_dataset, contents, monkeypatch):
    monkeypatch.setattr(recording.dataset, "FRAMES_PER_FILE", 30)
    dataset = new_dataset()
    dataset.append(block[:4], dataset.notes)
    before = contents(dataset.root)
    monkeypatch.setattr(recording.dataset, "link_all", lambda *_: None)
    with pytest.raises(UserError, match="left as it was: the new version would hold 8 episodes and"):
        dataset.append(block[4:], dataset.notes)
    assert contents(dataset.root) == before and dataset.episodes == 4


def test_a_full_disk_leaves_what_was_saved(block, new_dataset, contents, monkeypatch):
    dataset = new_dataset()
    dataset.append(block[:2], dataset.notes)
    before = contents(dataset.root)
    full = OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as patch:
        patch.setattr(recording.dataset, "write_stats", lambda *_: (_ for _ in ()).throw(full))
        with pytest.raises(UserError, match="No space left on device.*resume with --resume"):
            dataset.append(block[2:], dataset.notes)
    assert contents(dataset.root) == before
    assert not list(dataset.root.parent.rglob("next"))
    dataset.append(block[2:], dataset.notes)
    assert LeRobotDataset("local/any", root=dataset.root).num_episodes == 8


def test_features_are_those_of_the_hub(make_recipe, new_dataset, block):
    recipe = make_recipe(resolution=96, video=True)
    for name, (dtype, shape, names) in LEROBOT_PUSHT.items():
        stored = new_dataset(resolution=96, video=True).features[name]
        assert (stored["dtype"], list(stored["shape"]), stored["names"]) == (dtype, shape, names)
    assert features(PushT(), recipe).keys() - LEROBOT_PUSHT.keys() == {"sim.state"}
    keypoints = features(PushT(), replace(recipe, observations="keypoints", video=False, noise=1.0))
    assert keypoints["observation.environment_state"]["shape"] == (16,)
    inputs = dataset_to_policy_features(keypoints)
    assert inputs.keys() == {"observation.environment_state", "observation.state", "action"}
