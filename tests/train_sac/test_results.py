"""What a training shows and leaves: numbers by their names, a rollout, an evaluation that anyone gets."""

import csv
import io
from functools import partial

import imageio.v3
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from common.untrusted import load_json
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from policies import load_policy
from tests.runs import curves

LEARNING = {
    *("Reward/episode", "Reward/mean_100", "Loss/actor", "Loss/critic1", "Loss/critic2", "Alpha"),
    *("Q/mean_q1", "Q/mean_q2", "Policy/log_prob"),
    *("Throughput/env_steps_per_s", "Throughput/updates_per_s"),
}
EVALUATION = {"Eval/success_rate", "Eval/max_coverage"}
STEPS = "Eval/steps_to_success"  # where there is a success


def test_numbers_have_the_names_that_others_read(uninterrupted):
    """In metrics.csv and in TensorBoard, where plots and comparisons look for them."""
    with (uninterrupted / "metrics.csv").open(newline="") as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    evaluations = [row for row in rows if row.keys() >= EVALUATION]
    assert [row["step"] for row in evaluations] == ["400", "800", "1200"]
    assert all((STEPS in row) == (float(row["Eval/success_rate"]) > 0) for row in evaluations)
    learning = [row for row in rows if row not in evaluations]
    assert [row["step"] for row in learning] == [str(step) for step in range(40, 1201, 40)]
    assert learning[-1].keys() >= LEARNING

    shown = curves(uninterrupted)
    for name in LEARNING | EVALUATION:
        written = [(int(row["step"]), float(row[name])) for row in rows if name in row]
        assert shown[name] == [(step, pytest.approx(value, rel=1e-5)) for step, value in written]

    for row in learning:  # a tenth of an update per step from the 100th on, without the latest 2 steps
        env_steps, updates = (float(row[f"Throughput/{name}_per_s"]) for name in ("env_steps", "updates"))
        due = max(0, (int(row["step"]) - 2 - 100) // 10)
        assert updates / env_steps == pytest.approx(due / int(row["step"]), rel=1e-4)


def test_its_evaluation_and_its_rollout_are_those_of_the_saved_policy(train, tmp_path, monkeypatch):
    """Opened and played as everyone does, from the seed and for the episodes that the configuration names."""
    short_env = partial(PushTVectorEnv, max_episode_steps=15)  # a film of 300 steps takes seconds
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", short_env)
    once = "--total-env-steps 200 --training.eval-every 200 --training.video-every 200"
    train(*once.split(), *"--training.eval-episodes 3 --training.eval-seed 77".split())

    policy = load_policy(tmp_path / "run/checkpoints/last")
    numbers = PushT().summarize(list(rollout(short_env(3), policy, range(77, 80))))
    trained = load_json(tmp_path / "run/checkpoints/last/config.json")["trained"]
    assert trained["evaluation"] == numbers | {"env_steps": 200}

    (episode,) = rollout(short_env(1), policy, [77], frame_size=256)
    events = EventAccumulator(str(tmp_path / "run"), size_guidance={IMAGES: 0}).Reload()
    (shown,) = events.Images("Rollout")
    assert shown.step == 200
    played = imageio.v3.imread(io.BytesIO(shown.encoded_image_string), extension=".gif", index=...)
    np.testing.assert_array_equal(played[..., :3], episode.frames)
