"""A training from pictures, from the command line: stopped and resumed, evaluated, filmed, misused."""

import io
import signal
from itertools import count
from pathlib import Path

import imageio.v3
import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

import collect_dataset
import evaluate
import train_sac
from common.checkpoint import save_json, save_tensors
from common.untrusted import load_json, load_tensors
from envs.training import TaskTrainingEnv
from tests.train_sac.runs import assert_same_run, command_line

pytestmark = pytest.mark.slow

TINY = """
task: visual_pendulum
total_env_steps: 480
device: cpu
env: {num_envs: 2, action_repeat: 2, mirror: true, pixels: {size: 12, stack: 2}}
agent:
  hidden_sizes: [8, 8]
  batch_size: 4
  encoder: {filters: [4, 5], kernels: [3, 3], strides: [2, 1], features: 6, shift: 1, tau: 0.1,
            views: 2, target_views: 2, reconstruction: 0.5}
training:
  start_steps: 40
  utd: 0.1
  buffer_capacity: 200  # which is overwritten
  log_every: 80
  eval_every: 240
  eval_episodes: 1
  video_every: 0
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def uninterrupted(tiny, tmp_path_factory) -> Path:
    logs = tmp_path_factory.mktemp("uninterrupted")
    train_sac.main(command_line(tiny, logs))
    return logs / "run"


def frames(run: Path) -> dict[str, bytes]:
    folder = run / "checkpoints/last/training_state/frames"
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_stopped_and_resumed_it_is_the_same_to_the_bit(uninterrupted, train, tmp_path, monkeypatch, capsys):
    """Before learning begins, within an episode, just after one, before and after the buffer is full."""
    step, steps = TaskTrainingEnv.step, count(1)
    stops = (6, 37, 60, 101)

    def step_and_be_stopped(env, actions):
        if next(steps) in stops:
            signal.raise_signal(signal.SIGINT)
        return step(env, actions)

    monkeypatch.setattr(TaskTrainingEnv, "step", step_and_be_stopped)
    for stop in stops:
        train()
        assert f"stopped at {4 * stop} env steps, saved" in capsys.readouterr().out
    train()
    assert "finished" in capsys.readouterr().out
    assert_same_run(tmp_path / "run", uninterrupted)
    assert frames(tmp_path / "run") == frames(uninterrupted)


def test_the_start_says_what_the_pictures_take(train, capsys):
    train("--total-env-steps", "60", "--training.buffer-capacity", "100000")
    output = capsys.readouterr().out
    assert "replay        100,000 pictures, 0.01 GB" in output  # 12 x 12 bytes each
    assert "2 pictures of 12 x 12 x 1" in output


def test_reconstructions_are_shown_below_their_pictures(uninterrupted, tiny, tmp_path):
    events = EventAccumulator(str(uninterrupted), size_guidance={IMAGES: 0}).Reload()
    shown = events.Images("Reconstruction")
    assert [image.step for image in shown] == [240, 480]
    picture = imageio.v3.imread(io.BytesIO(shown[-1].encoded_image_string), extension=".png")
    assert picture.shape == (24, 8 * 12, 3)

    trainer = train_sac.build_trainer(train_sac.read_config(command_line(tiny, tmp_path)), tmp_path)
    trainer.load(uninterrupted / "checkpoints/last")
    seen = trainer.replay.sample(8, torch.Generator().manual_seed(480)).observations
    pixels, made = seen.pixels[:8, -1], trainer.agent.reconstruct(seen)[:8, -1].clamp(0, 1)
    for row, images in ((picture[:12], pixels), (picture[12:], made)):
        expected = np.concatenate(list(images.numpy()), axis=1) * 255
        for colour in range(3):
            np.testing.assert_allclose(row[..., colour], expected, atol=0.51)


def test_its_checkpoint_is_evaluated_and_filmed(uninterrupted, tmp_path):
    flags = ("--policy", str(uninterrupted), "--episodes", "2", "--record", "--videos", "1")
    for env in ("fast", "stock"):
        evaluate.main([*flags, "--env", env, "--output", str(tmp_path / env)])
        (numbers,) = (load_json(path) for path in (tmp_path / env).glob("*.json"))
        assert numbers["episodes"] == 2 and numbers["task"] == "VisualPendulum"
        assert len(list((tmp_path / env / "videos").glob("*.mp4"))) == 1
    trained = load_json(uninterrupted / "checkpoints/last/config.json")["trained"]["evaluation"]
    again = ("--policy", str(uninterrupted / "checkpoints/last"), "--episodes", "1", "--seed", "10000")
    evaluate.main([*again, "--json", str(tmp_path / "numbers.json"), "--output", str(tmp_path / "again")])
    assert load_json(tmp_path / "numbers.json")["avg_sum_reward"] == trained["avg_sum_reward"]


def test_it_is_not_recorded_yet(uninterrupted, refused_by, tmp_path):
    flags = ["--policy", str(uninterrupted), "--root", str(tmp_path / "data")]
    assert "VisualPendulum cannot be recorded yet" in refused_by(collect_dataset.main, flags)


ENCODER = "--agent.encoder"
BAD_FLAGS = {
    "too many layers": (
        f"{ENCODER}.filters 4 4 4 {ENCODER}.kernels 3 3 3 {ENCODER}.strides 2 2 2",
        "encoder.filters, kernels and strides must be fewer or smaller: 3 layers leave nothing of pictures "
        "of 12 x 12 pixels",
    ),
    "kernels missing": (f"{ENCODER}.kernels 3", "must be as many as each other"),
    "a shift out of the picture": (f"{ENCODER}.shift 12", "encoder.shift must be less than the side", "12"),
    "views without a shift": (
        f"{ENCODER}.shift 0",
        "agent.encoder.views must be 1 without shift and brightness",
    ),
    "nothing trains it": (
        f"{ENCODER}.reconstruction 0 --agent.encoder.no-critic-trains",
        "agent.encoder.critic_trains must be true without a reconstruction",
    ),
    "a penalty of no decoder": (
        f"{ENCODER}.reconstruction 0 {ENCODER}.latent-penalty 1",
        "agent.encoder.latent_penalty must be left out without a reconstruction",
    ),
    "a picture too small": ("--env.pixels.size 4", "env.pixels.size must be at least 8, got 4"),
    "a buffer below the stack": (
        "--training.buffer-capacity 11",
        "training.buffer_capacity must be at least 12 for 2 environments, an n_step of 3 and a stack of 2",
    ),
    "a buffer beyond the memory": (
        "--training.buffer-capacity 1000000000000",
        "training.buffer_capacity 1,000,000,000,000 (1,000,000,000,000 pictures x 12 x 12 x 1 bytes = "
        "144,000.00 GB, and",
        "does not fit into the memory",
    ),
    "an encoder beyond the memory": (
        f"{ENCODER}.filters 60000 60000 {ENCODER}.kernels 3 3 --agent.batch-size 200",
        "an encoder of filters (60000, 60000)",
        "of pictures of 12 x 12 x 2, does not fit into the memory",
    ),
}


@pytest.mark.parametrize(("flags", "words"), [(f, w) for f, *w in BAD_FLAGS.values()], ids=BAD_FLAGS)
def test_bad_flags(refused, flags, words):
    told = refused(*flags.split())
    assert [word for word in words if word not in told] == []


def test_an_encoder_where_there_are_no_pictures(tmp_path, refused_by):
    flags = ["--task", "pendulum", "--logs", str(tmp_path), f"{ENCODER}.features", "20"]
    said = "agent.encoder must be left out, because task pendulum has no pictures, got features: 50 -> 20"
    assert said in refused_by(train_sac.main, flags)


@pytest.mark.parametrize(("name", "value", "old"), [("size", "16", "12"), ("stack", "3", "2")])
def test_other_pictures_on_resume(refused, started, name, value, old):
    told = refused(f"--env.pixels.{name}", value, "--total-env-steps", "600")
    assert f"was trained with another configuration (env.pixels.{name}: {old} -> {value})" in told


def test_a_state_of_another_encoder(refused, started):
    file = started / "checkpoints/last/training_state/tensors.safetensors"
    tensors = load_tensors(file)
    tensors["agent.encoder.network.0.weight"] = torch.zeros(4, 2, 5, 5)
    save_tensors(file, tensors)
    assert "training_state: not the state of such a training" in refused("--total-env-steps", "600")


@pytest.mark.parametrize("part", ["weights", "filters", "layers"])
def test_a_policy_of_another_encoder(started, refused_by, part):
    folder = started / "checkpoints/last"
    if part == "weights":
        tensors = load_tensors(folder / "model.safetensors")
        tensors["encoder.network.0.weight"] = torch.zeros(4, 2, 5, 5)
        save_tensors(folder / "model.safetensors", tensors)
    else:
        config = load_json(folder / "config.json")
        config["encoder"] |= {"filters": [4, 9]} if part == "filters" else {"strides": [9, 9]}
        save_json(folder / "config.json", config)
    told = refused_by(evaluate.main, ["--policy", str(folder), "--episodes", "1"])
    if part == "layers":
        assert "config.json: encoder.filters, kernels and strides must be fewer" in told
    else:
        assert (
            "model.safetensors: not the weights of an actor" in told and "an encoder of filters (4, " in told
        )
