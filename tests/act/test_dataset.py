"""Datasets that do not suit."""

import shutil
from pathlib import Path

import pytest
import torch

from act.dataset import DatasetConfig, features_of, open_dataset
from act.frames import Frames
from act.kinds.act import choose_inputs
from common.errors import UserError
from envs.pendulum import Pendulum
from tests.act.changed import TASK, change_info, change_stats, damage, open_ours, rewrite, truncate


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
        (lambda root: shutil.rmtree(root / "meta" / "episodes"), "cannot be opened"),
        (truncate("data/*/*.parquet"), "damaged"),
        (truncate("meta/episodes/*/*.parquet"), "cannot be opened"),
        (change_info(total_frames=27), "says 3 episodes of 27 frames, its table of episodes has 3 of 26"),
        (change_info(total_episodes=4), "says 4 episodes of 26 frames, its table of episodes has 3 of 26"),
        (
            lambda root: rewrite(root, "data/*/*.parquet", lambda table: table.slice(0, 25)),
            "hold 25 frames, its description says 26",
        ),
        (
            lambda root: rewrite(root, "meta/episodes/*/*.parquet", lambda table: table.slice(1)),
            "its table of episodes has 2 of 17",
        ),
        (lambda root: (root / "meta" / "stats.json").unlink(), "no statistics of observation.state, action"),
        (lambda root: change_stats(root, lambda stats: stats.pop("action")), "has no statistics of action"),
        (lambda root: change_stats(root, lambda s: s["action"].pop("std")), "has no statistics of action"),
        (
            lambda root: change_stats(root, lambda s: s["action"].__setitem__("mean", [1.0, 2.0, 3.0])),
            r"the mean of action in its statistics is not \(2,\) finite numbers",
        ),
        (
            lambda root: change_stats(root, lambda s: s["action"].__setitem__("std", [1.0, float("nan")])),
            r"the std of action in its statistics is not \(2,\) finite numbers",
        ),
        (change_info(codebase_version="v2.1"), "of LeRobot's format before v3.0; LeRobot has a converter"),
        (change_info(features=[]), "cannot be opened, is it whole"),
        (change_info(total_episodes=0, total_frames=0), "is empty"),
        (change_info(fps=30), "has 30 frames per second, PushT has 10"),
    ],
)
def test_a_damaged_dataset_is_refused(datasets, tmp_path, how, message):
    with pytest.raises(UserError, match=message):
        open_ours(damage(datasets["image"], tmp_path, how), tmp_path)


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
