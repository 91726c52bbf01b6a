"""SmolVLA's training: the dataset's sentences, an exact resume; and it plays and is steered."""

import json
from dataclasses import replace

import pytest
import torch
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies import make_pre_post_processors
from torch.utils.data import default_collate

import train_act
from act.dataset import DatasetConfig, features_of, open_dataset
from act.frames import Frames
from act.kinds.act import PolicyConfig as ACTSettings
from act.kinds.act import act_config
from act.optimizer import OptimizerConfig
from common.config import to_dict
from common.errors import UserError
from common.untrusted import load_json, load_tensors
from tests.act.changed import change_column, damage
from tests.act.checks import (
    assert_noise_0_plays_as_unsteered,
    assert_resumes_exactly_and_plays,
)
from tests.act.tiny import CHUNK, IMAGE, KEYPOINTS, STATE, TASK, save
from tests.act.tiny_vla import KIND, MASK, SENTENCES, TOKENS, settings


def open_frames(root, vlm, tmp_path, **changes):
    config = DatasetConfig(root=root, **changes)
    meta = open_dataset(config, TASK)
    terms = KIND.make_config(settings(vlm), features_of(meta), OptimizerConfig(), "cpu")
    pre, _ = make_pre_post_processors(terms, dataset_stats=meta.stats)
    return Frames(meta, terms, pre, torch.device("cpu"), config, tmp_path, TASK), pre, meta


@pytest.fixture(scope="module")
def dataset(make_dataset, tmp_path_factory):
    """Three episodes, of which the second has another sentence."""
    return make_dataset(tmp_path_factory.mktemp("datasets") / "words", pictures=32, sentences=SENTENCES)


@pytest.mark.slow
def test_a_batch_is_lerobots(dataset, vlm, tmp_path):
    frames, pre, meta = open_frames(dataset, vlm, tmp_path)
    deltas = [step / meta.fps for step in range(CHUNK)]
    past = {name: [0.0] for name in (STATE, IMAGE)}
    lerobots = LeRobotDataset("local/x", root=dataset, delta_timestamps={"action": deltas} | past)
    indices = torch.tensor([0, 8, 9, 13, 14, 25])  # the second episode is 9 to 13
    ours, theirs = frames.batch(indices), pre(default_collate([lerobots[i] for i in indices.tolist()]))
    assert set(ours) == {STATE, IMAGE, TOKENS, MASK, "action", "action_is_pad"}
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name
    assert ours[MASK].sum(1).tolist() == [4, 4, 6, 6, 4, 4], "words, and the end of the line"


def test_a_mirrored_frame_has_its_sentence(dataset, vlm, tmp_path):
    frames, *_ = open_frames(dataset, vlm, tmp_path, mirror=True)
    indices = torch.tensor([0, 9, 13, 25])
    for name in (TOKENS, MASK):
        assert torch.equal(frames.batch(indices)[name], frames.batch(indices + 26)[name])


def test_the_fingerprint_knows_the_sentences_where_they_are_read(dataset, vlm, tmp_path):
    def other(root):
        change_column("meta/tasks.parquet", "task", lambda _: ["push", "push it"])(root)

    changed = damage(dataset, tmp_path, other)
    seen = [open_frames(root, vlm, tmp_path)[0].fingerprint for root in (dataset, dataset, changed)]
    assert seen[0] == seen[1] != seen[2]

    def of_act(root):
        meta = open_dataset(config := DatasetConfig(root=root), TASK)
        terms = act_config(ACTSettings(inputs=(STATE, KEYPOINTS)), features_of(meta), device="cpu")
        return Frames(
            meta, terms, lambda batch: batch, torch.device("cpu"), config, tmp_path, TASK
        ).fingerprint

    assert of_act(dataset) == of_act(changed), "as before there was language"


@pytest.mark.parametrize(
    ("pattern", "column", "values", "message"),
    [
        (
            "meta/*.parquet",
            "task",
            lambda v: ["a" * 1001, *v[1:]],
            "a sentence of 1,001 characters, more than",
        ),
        ("meta/*.parquet", "task", lambda v: [1, 2], "must hold text, got int64"),
        ("meta/*.parquet", "task", lambda v: [None, *v[1:]], "must hold text"),
        ("meta/*.parquet", "task_index", lambda v: [1, 0], "task_index in row 0 is 1"),
        (
            "data/*/*.parquet",
            "task_index",
            lambda v: [*v[1:], 2],
            "task_index is 2 or less, and .* has 2 sent",
        ),
        ("data/*/*.parquet", "task_index", lambda v: [*v[1:], -1], "task_index is 1 or less"),
    ],
)
def test_sentences_that_are_none_are_refused(dataset, vlm, tmp_path, pattern, column, values, message):
    with pytest.raises(UserError, match=f"damaged .*{message}"):
        open_frames(damage(dataset, tmp_path, change_column(pattern, column, values)), vlm, tmp_path)


@pytest.fixture
def usual(dataset, vlm, tmp_path, short_episodes):
    """The command line of a short training."""
    policy = to_dict(replace(settings(vlm), inputs=()))
    content = {
        "device": "cpu",
        "batch_size": 4,
        "logs": str(tmp_path),
        "run_name": "run",
        "dataset": {"root": str(dataset), "mirror": True},
        "policy": {name: value for name, value in policy.items() if value is not None},
        "optimizer": {"schedule": "constant", "warmup_steps": 0, "micro_batches": 2},
        "training": {"eval_every": 0, "eval_episodes": 1, "video_every": 0},
    }
    (config := tmp_path / "smolvla.yaml").write_text(json.dumps(content))
    return ["--config", str(config)]


@pytest.mark.slow
@pytest.mark.parametrize("all_trained", [True, False])
def test_a_training_that_stopped_goes_on_exactly_and_plays(usual, policy, tmp_path, all_trained):
    if not all_trained:
        usual += ["--policy.pretrained", str(save(policy, tmp_path / "other")), "--policy.train-expert-only"]
    last = assert_resumes_exactly_and_plays(usual, tmp_path, 3, n_action_steps=2)
    average, weights = (
        load_tensors(last / file)
        for file in ("pretrained_model/model.safetensors", "training_state/trainer.safetensors")
    )
    moved = {name for name in average if not torch.equal(average[name], weights[f"weights.{name}"])}
    assert moved and any(".vlm." in name for name in moved) == all_trained


@pytest.mark.slow
def test_a_strangers_training_is_started_from_as_its_policy_is_opened(usual, tmp_path, refused_by):
    train_act.main([*usual, "--steps", "1"])
    folder = tmp_path / "run" / "checkpoints" / "last"
    file = folder / "pretrained_model" / "train_config.json"
    content = load_json(file)
    start = [*usual, "--run-name", "other", "--steps", "2", "--start-from", str(folder)]
    for change, said in (
        ({"vlm_model_name": "evil/vlm"}, "vlm_model_name must be HuggingFaceTB/"),
        (
            {"adapt_to_pi_aloha": True},
            "no policy to start from: adapt_to_pi_aloha and empty_cameras must be off",
        ),
        ({"num_expert_layers": 99}, "no policy to start from: num_expert_layers must divide 2, got 99"),
        ({"compile_model": True, "rtc_config": {"enabled": True}}, ""),
    ):
        file.write_text(json.dumps(content | {"policy": content["policy"] | change}))
        if said:
            assert said in refused_by(train_act.main, start)
        else:
            assert train_act.main(start)


@pytest.mark.slow
def test_steered_by_noise_0_it_plays_as_it_does_alone(policy):
    assert_noise_0_plays_as_unsteered(policy, side=32)


def test_a_random_vlm_that_would_stay_random_is_a_sentence(usual, refused_by):
    said = refused_by(train_act.main, [*usual, "--steps", "1", "--policy.train-expert-only"])
    assert "policy.load_vlm_weights must be true, or" in said
