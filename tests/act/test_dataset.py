"""Datasets that do not suit."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from act.dataset import DatasetConfig, features_of, open_dataset
from act.frames import Frames
from act.inputs import choose_inputs
from common.errors import UserError
from envs.pendulum import Pendulum
from tests.act.changed import (
    TASK,
    change_column,
    change_info,
    change_stats,
    damage,
    open_ours,
    rewrite,
    truncate,
)


def test_an_image_policy_does_not_see_the_simulators_state(datasets):
    features = features_of(open_dataset(DatasetConfig(root=datasets["image"]), TASK))
    assert set(choose_inputs(features)) == {"observation.image", "observation.state"}
    everything = ("observation.image", "observation.state", "observation.environment_state")
    assert list(choose_inputs(features, everything)) == list(everything)


def test_features_of_another_shape_are_refused(datasets, tmp_path):
    """As when a policy that was trained elsewhere goes on here."""
    _, pre, terms = open_ours(datasets["image"], tmp_path)
    config = DatasetConfig(root=datasets["video"])
    message = r"has observation.image of shape \(3, 64, 64\), the policy looks at one of \(3, 16, 16\)"
    with pytest.raises(UserError, match=message):
        meta, cpu = open_dataset(config, TASK), torch.device("cpu")
        Frames(meta, terms, pre, cpu, config, tmp_path, TASK)


@pytest.mark.parametrize(
    "how, message",
    [
        (shutil.rmtree, "no such folder; this command records it: python collect_dataset.py --root .*copy"),
        (lambda root: shutil.rmtree(root / "meta"), "not the folder of a LeRobot dataset"),
        (lambda root: shutil.rmtree(root / "data"), "damaged"),
        (lambda root: shutil.rmtree(root / "meta" / "episodes"), "meta/episodes: missing"),
        (truncate("data/*/*.parquet"), "damaged"),
        (truncate("meta/episodes/*/*.parquet"), r"file-000.parquet: damaged \("),
        (change_info(total_frames=27), "says 3 episodes of 27 frames, meta/episodes holds 3 of 26"),
        (change_info(total_episodes=4), "says 4 episodes of 26 frames, meta/episodes holds 3 of 26"),
        (
            lambda root: rewrite(root, "data/*/*.parquet", lambda table: table.slice(0, 25)),
            "holds 25 frames, meta/info.json says 26",
        ),
        (
            lambda root: rewrite(root, "meta/episodes/*/*.parquet", lambda table: table.slice(1)),
            "episode_index in row 0 is 1, and by the rows before it 0",
        ),
        (lambda root: (root / "meta" / "stats.json").unlink(), "stats.json: missing"),
        (lambda root: change_stats(root, lambda stats: stats.pop("action")), "has no statistics of action"),
        (lambda root: change_stats(root, lambda s: s["action"].pop("std")), "has no statistics of action"),
        (
            lambda root: change_stats(root, lambda s: s["action"].__setitem__("mean", [1.0, 2.0, 3.0])),
            r"the mean of action must be finite numbers of shape \(2,\)",
        ),
        (
            lambda root: change_stats(root, lambda s: s["action"].update(mean=[1e30, 1e30])),
            "the mean of action is not that of values between its min and max",
        ),
        (
            lambda root: change_stats(root, lambda s: s.update(action={"mean": [0, 0], "std": [1, -1]})),
            r"the std of action must be finite numbers of shape \(2,\)",
        ),
        (
            lambda root: change_stats(root, lambda s: s["action"].__setitem__("std", [1.0, float("nan")])),
            r"the std of action must be finite numbers of shape \(2,\)",
        ),
        (
            change_info(codebase_version="v2.1"),
            "a dataset of version v2.1, not v3.0; LeRobot has a converter",
        ),
        (change_info(features=[]), r"info.json: damaged \("),
        (change_info(total_episodes=0, total_frames=0), "is empty"),
        (change_info(fps=30), "has 30 frames per second, PushT has 10"),
    ],
)
def test_a_damaged_dataset_is_refused(datasets, tmp_path, how, message):
    with pytest.raises(UserError, match=message):
        open_ours(damage(datasets["image"], tmp_path, how), tmp_path)


def swap(first, second):
    def swapped(values):
        values[first], values[second] = values[second], values[first]
        return values

    return swapped


def change_feature(name, **changes):
    def change(root):
        features = json.loads((root / "meta" / "info.json").read_text())["features"]
        change_info(features=features | {name: features[name] | changes})(root)

    return change


def write(name, content):
    return lambda root: (root / name).write_text(content)


def to_pipe(pattern):
    def change(root):
        (file,) = root.glob(pattern)
        file.unlink()
        os.mkfifo(file)

    return change


DATA, EPISODES = "data/*/*.parquet", "meta/episodes/*/*.parquet"


@pytest.mark.slow
@pytest.mark.parametrize(
    "how, message",
    [
        (
            change_column(EPISODES, "length", swap(0, 1)),
            "dataset_from_index in row 1 is 9, and by the rows before it 5",
        ),
        (change_column(EPISODES, "dataset_from_index", swap(0, 1)), "dataset_from_index in row 0 is 9"),
        (change_column(EPISODES, "episode_index", lambda v: [0] * len(v)), "episode_index in row 1 is 0"),
        (change_column(EPISODES, "length", lambda v: [-9, *v[1:]]), "an episode of -9 frames"),
        (
            change_column(EPISODES, "length", lambda v: [10**15, *v[1:]]),
            "an episode of 1,000,000,000,000,000 frames",
        ),
        (change_column(EPISODES, "length", lambda v: [None, *v[1:]]), "length must be whole numbers"),
        (change_column(EPISODES, "length", lambda v: [str(x) for x in v]), "length must be whole numbers"),
        (change_column(DATA, "episode_index", lambda v: [0] * len(v)), "episode_index in row 9 is 0"),
        (change_column(DATA, "frame_index", swap(3, 4)), "frame_index in row 3 is 4"),
        (change_column(DATA, "index", swap(3, 4)), "index in row 3 is 4"),
        (
            change_column(DATA, "index", lambda v: [float(x) for x in v]),
            "index must be whole numbers, got double",
        ),
        (change_column(DATA, "timestamp", lambda v: [2 * x for x in v]), "timestamp in row 1 is not that"),
        (change_column(DATA, "timestamp", lambda v: [None, *v[1:]]), "timestamp in row 0 is not that"),
        (
            change_column(DATA, "action", lambda v: [[1.0], [1.0, 2.0, 3.0], *v[2:]]),
            "not of 2 numbers in every",
        ),
        (change_column(DATA, "action", lambda v: [None, *v[1:]]), "damaged"),
        (change_column(DATA, "action", lambda v: [[x] for x in v]), "damaged"),
        (change_column(DATA, "action", lambda v: ["up"] * len(v)), "damaged"),
        (change_column(DATA, "action", lambda v: [[float("nan")] * 2, *v[1:]]), "action is not finite"),
        (lambda root: rewrite(root, DATA, lambda table: table.drop(["action"])), "damaged"),
        (lambda root: rewrite(root, DATA, lambda table: table.drop(["frame_index"])), "damaged"),
        (
            change_column(DATA, "observation.image", lambda v: [{"bytes": b"x", "path": ""}] * len(v)),
            "damaged",
        ),
        (
            change_column(
                DATA, "observation.image", lambda v: [{"bytes": b"", "path": "/etc/passwd"}] * len(v)
            ),
            "'/etc/passwd' leads out of the dataset",
        ),
        (
            change_column(
                DATA, "observation.image", lambda v: [{"bytes": None, "path": "../a.png"}] * len(v)
            ),
            "leads out of the dataset",
        ),
        (
            change_info(codebase_version="v3.1"),
            "a dataset of version v3.1, not v3.0; it is newer",
        ),
        (
            change_info(codebase_version="v4.0"),
            "a dataset of version v4.0, not v3.0; it is newer",
        ),
        (change_info(codebase_version=None), "info.json: damaged"),
        (change_info(total_frames=10**15), "total_frames is 1000000000000000"),
        (change_info(fps="ten"), "'ten' frames per second"),
        (change_info(data_path="../{chunk_index}/{file_index}.parquet"), "leads out of the dataset"),
        (change_info(video_path="/etc/{video_key}"), "leads out of the dataset"),
        (change_info(video_path="{video_key.__class__}"), "is no pattern of paths"),
        (change_info(video_path="{chunk_index:999999999d}"), "is no pattern of paths"),
        (change_feature("action", shape=[2.5]), "the feature 'action' is of type"),
        (change_feature("action", shape=[10**9]), "the feature 'action' is of type"),
        (change_feature("action", dtype=None), "the feature 'action' is of type"),
        (write("meta/info.json", "[" * 50_000 + "]" * 50_000), "nested in more than 50 levels"),
        (write("meta/info.json", '{"fps": ' + "9" * 400 + "}"), "an integer of 400 digits"),
        (write("meta/info.json", "[]"), "info.json: damaged"),
        (write("meta/stats.json", "{}"), "has no statistics of"),
        (write("meta/stats.json", "null"), "holds None in place of names and values"),
        (write("meta/stats.json", "[" * 50_000 + "]" * 50_000), "nested in more than 50 levels"),
        (lambda root: change_stats(root, lambda s: s.update(action=None)), "has no statistics of action"),
        (
            lambda root: change_stats(root, lambda s: s["action"].update(mean=None)),
            r"mean of action must be finite numbers of shape \(2,\)",
        ),
        (
            lambda root: change_stats(root, lambda s: s["action"].update(std=["1", "2"])),
            r"std of action must be finite numbers of shape \(2,\)",
        ),
        (
            lambda root: change_stats(root, lambda s: s.update(x={"q90": [2**63]})),
            "the statistics of 'x' are not",
        ),
        (
            lambda root: change_stats(root, lambda s: s.update(x={"min": "low"})),
            "the statistics of 'x' are not",
        ),
        (
            lambda root: change_stats(root, lambda s: s["action"].update(q01=None)),
            "statistics of 'action' are not",
        ),
        (
            change_feature("observation.image", shape=[64, 64, 3]),
            "statistics|a picture of 16 x 16, not 64 x 64",
        ),
        (to_pipe(DATA), "no regular file"),
        (to_pipe("meta/info.json"), "not the folder of a LeRobot dataset"),
        (lambda root: (root / "meta/info.json").write_bytes(b"\xff\xfe"), "info.json: damaged"),
    ],
)
def test_a_dataset_of_a_stranger_is_refused(datasets, tmp_path, how, message, monkeypatch):
    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_refs", lambda *_, **__: pytest.fail("asked the Hub"))
    with pytest.raises(UserError, match=message) as refused:
        open_ours(damage(datasets["image"], tmp_path, how), tmp_path)
    assert len(str(refused.value).replace(str(tmp_path), "")) <= 300


@pytest.mark.parametrize("pattern", ["videos/*/*/*.mp4"])
@pytest.mark.parametrize(
    "how", [truncate, to_pipe, lambda pattern: lambda root: next(root.glob(pattern)).unlink()]
)
def test_a_film_that_is_not_whole_is_refused(datasets, tmp_path, pattern, how):
    with pytest.raises(UserError, match="mp4|pipe|regular|damaged|missing"):
        open_ours(damage(datasets["video"], tmp_path, how(pattern)), tmp_path)


def test_times_of_films_may_drift_by_less_than_half_a_frame(datasets, tmp_path):
    name = "videos/observation.image/from_timestamp"
    whole, *_ = open_ours(datasets["video"], tmp_path)
    for drift in (0.0003, 0.02):
        (folder := tmp_path / str(drift)).mkdir()
        drifted = change_column(EPISODES, name, lambda v: [x + i * drift for i, x in enumerate(v)])  # noqa: B023
        frames, *_ = open_ours(damage(datasets["video"], folder, drifted), folder)
        assert (frames.pictures["observation.image"] == whole.pictures["observation.image"]).all()
    late = change_column(EPISODES, name, lambda v: [*v[:-1], v[-1] + 0.055])
    with pytest.raises(UserError, match="has not the pictures of"):
        open_ours(damage(datasets["video"], tmp_path, late), tmp_path)


def test_a_film_of_another_size_is_refused_before_it_is_decoded(datasets, tmp_path, monkeypatch):
    monkeypatch.setattr("common.lerobot_videos.decode_video_frames", lambda *_, **__: pytest.fail("decoded"))
    copy = damage(datasets["video"], tmp_path, change_feature("observation.image", shape=[96, 96, 3]))
    with pytest.raises(UserError, match="has pictures of 64 x 64, not 96 x 96"):
        open_ours(copy, tmp_path)


@pytest.mark.parametrize("names", [None, []])
def test_names_of_a_pictures_axes_may_be_left_out(datasets, tmp_path, names):
    copy = damage(datasets["image"], tmp_path, change_feature("observation.image", names=names))
    assert features_of(open_dataset(DatasetConfig(root=copy), TASK)) == features_of(
        open_dataset(DatasetConfig(root=datasets["image"]), TASK)
    )


@pytest.mark.parametrize("name", ["with [v1]", "noise=3", "a::b", "$HOME"])
def test_a_folder_of_any_name_is_read(datasets, tmp_path, name):
    whole, *_ = open_ours(datasets["image"], tmp_path)
    shutil.copytree(datasets["image"], tmp_path / name)
    copy, *_ = open_ours(tmp_path / name, tmp_path)
    assert copy.fingerprint == whole.fingerprint


def test_a_local_dataset_needs_neither_hub_nor_cache(datasets, tmp_path, monkeypatch):
    """LeRobot's own loader writes a copy of the table of episodes into a cache."""
    nowhere = tmp_path / "file"
    nowhere.touch()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", nowhere / "cache")
    monkeypatch.setattr(
        "datasets.builder.DatasetBuilder.__init__", lambda *_, **__: pytest.fail("used a cache")
    )
    open_ours(datasets["image"], tmp_path)


@pytest.mark.parametrize(
    "recorded_by, command",
    [
        ("", "python collect_dataset.py --root data/mine"),
        ("python collect_dataset.py --root data/theirs --hold 10", "--root data/mine --hold 10"),
        ("python collect_dataset.py --hold 10", "python collect_dataset.py --hold 10 --root data/mine"),
    ],
)
def test_a_missing_dataset_is_told_with_the_command_that_records_it(recorded_by, command):
    config = DatasetConfig(root=Path("data/mine"), recorded_by=recorded_by)
    with pytest.raises(UserError, match=f"data/mine: no such folder; this command records it: .*{command}$"):
        open_dataset(config, TASK)


@pytest.mark.parametrize(
    "shape, message",
    [
        ({}, "has 10 frames per second, Pendulum-v1 has 20"),
        ({"fps": 20}, r"its actions must be of shape \(1,\), Pendulum-v1's, got \(2,\)"),
    ],
)
def test_a_dataset_of_another_task_is_refused(make_dataset, tmp_path, shape, message):
    root = make_dataset(tmp_path / "dataset", **shape)
    with pytest.raises(UserError, match=message):
        open_dataset(DatasetConfig(root=root), Pendulum())


@pytest.mark.parametrize(
    "shape, inputs, message",
    [
        ({"action_size": 3}, (), r"must be of shape \(2,\), PushT's, got \(3,\)"),
        ({"keypoints": False}, (), "has no observation.environment_state, it has"),
        ({}, ("observation.image", "observation.state"), "has no observation.image, it has"),
        ({}, ("observation.environment_state",), "must have observation.state"),
        ({}, ("observation.state", "action"), "ACT cannot look at action"),
    ],
)
def test_a_dataset_without_what_the_policy_wants_is_refused(make_dataset, tmp_path, shape, inputs, message):
    root = make_dataset(tmp_path / "dataset", **shape)
    with pytest.raises(UserError, match=message):
        choose_inputs(features_of(open_dataset(DatasetConfig(root=root), TASK)), inputs)
