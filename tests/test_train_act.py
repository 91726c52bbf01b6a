"""ACT training from the command line: stopped, killed, misused. Networks too small to learn."""

import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import evaluate
import train_act
from act.frames import open_dataset
from act.learner import OptimizerConfig
from common.checkpoint import load_json, load_tensors, save_tensors
from common.config import load_yaml, parse
from common.run import only_process_in
from policies import fingerprint
from tests.runs import metrics

ROOT = Path(train_act.__file__).parent
TINY = """
steps: 24
batch_size: 4
device: cpu
threads: 1
policy:
  chunk_size: 7
  n_action_steps: 3
  dim_model: 16
  n_heads: 2
  dim_feedforward: 16
  n_encoder_layers: 1
  n_vae_encoder_layers: 1
  latent_dim: 4
  backbone_weights: none
optimizer: {lr: 1.0e-3, warmup_steps: 4, ema: 0.9}
training: {log_freq: 5, eval_freq: 8, save_freq: 10, eval_episodes: 2, video_freq: 24}
"""


@pytest.fixture(scope="module")
def dataset(request, make_dataset, tmp_path_factory) -> Path:
    """Keypoints, or else pictures of so many pixels."""
    pictures = getattr(request, "param", 0)
    root = tmp_path_factory.mktemp("datasets") / ("image" if pictures else "state")
    return make_dataset(root, pictures=pictures, keypoints=not pictures)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY)
    return path


def command_line(tiny: Path, dataset: Path, logs: Path, *flags: str) -> list[str]:
    return [
        *("--config", str(tiny), "--dataset.root", str(dataset), "--logs", str(logs), "--run-name", "run"),
        *flags,
    ]


@pytest.fixture(scope="module")
def uninterrupted(tiny, dataset, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    logs = tmp_path_factory.mktemp("uninterrupted")
    assert train_act.main(command_line(tiny, dataset, logs))
    return logs / "run"


@pytest.fixture
def train(tiny, dataset, tmp_path) -> Callable[..., bool]:
    """Trains in `tmp_path/run`, in this process."""
    return lambda *flags: train_act.main(command_line(tiny, dataset, tmp_path, *flags))


def contents(run: Path, checkpoint: str = "last") -> dict[str, Any]:
    """Everything that a checkpoint holds and that does not name its folder; fails where it is not whole."""
    folder = run / "checkpoints" / checkpoint
    parts = {"evaluation": load_json(folder / "evaluation.json")}
    for file in [*(folder / "pretrained_model").iterdir(), *(folder / "training_state").iterdir()]:
        if file.name != "train_config.json":
            parts[file.name] = (load_json if file.suffix == ".json" else load_tensors)(file)
    assert {"model.safetensors", "optimizer_state.safetensors", "trainer.json"} <= parts.keys()
    return parts


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours.keys() == theirs.keys()
    for name, part in ours.items():
        if name.endswith(".safetensors"):
            assert part.keys() == theirs[name].keys()
            # Python's and NumPy's generators belong to the process.
            keys = [key for key in part if not key.startswith(("py_", "np_"))]
            assert all(torch.equal(part[key], theirs[name][key]) for key in keys), name
        else:
            assert part == theirs[name], name


def test_a_run_leaves_what_it_should(uninterrupted):
    checkpoints = uninterrupted / "checkpoints"
    assert (checkpoints / "last").resolve().name == "step_00000024"
    kept = {folder.name for folder in checkpoints.iterdir() if not folder.is_symlink()}
    best = (checkpoints / "best").resolve().name
    assert kept == {"step_00000010", "step_00000020", "step_00000024", best}
    assert (checkpoints / "last" / "training_state").is_dir()
    assert not (checkpoints / "step_00000010" / "training_state").exists()
    rows = metrics(uninterrupted)
    assert [int(row["step"]) for row in rows if row["Loss/l1"]] == [5, 10, 15, 20, 24]
    assert [int(row["step"]) for row in rows if row["Eval/success_rate"]] == [8, 16, 24]
    assert all(float(row["Loss/gradient_norm"]) > 0 for row in rows if row["Loss/l1"])
    rates = [float(row["Optimizer/lr"]) for row in rows if row["Loss/l1"]]
    cosine = [1e-5 + (1e-3 - 1e-5) * (1 + math.cos(math.pi * step / 24)) / 2 for step in (5, 10, 15, 20, 24)]
    assert rates == pytest.approx(cosine, rel=1e-4)


def test_best_is_by_success_then_by_coverage(train, tmp_path, monkeypatch):
    results = {8: (0.5, 0.7), 16: (0.5, 0.6), 24: (0.4, 0.9)}
    calls = iter(results.values())

    def summary(_evaluation, _policy):
        success, coverage = next(calls)
        numbers = ["mean_steps_to_success", "avg_sum_reward", "action_step_mean", "action_step_p99"]
        return {"success_rate": success, "mean_max_coverage": coverage} | dict.fromkeys(numbers, 1.0)

    monkeypatch.setattr(train_act.Evaluation, "summary", summary)
    train()
    assert (tmp_path / "run" / "checkpoints" / "best").resolve().name == "step_00000008"


def test_the_average_is_what_is_evaluated(train, tmp_path, monkeypatch):
    summary, played = train_act.Evaluation.summary, {}

    def watched(evaluation, policy):
        played.update(deepcopy(policy.state_dict()))
        return summary(evaluation, policy)

    monkeypatch.setattr(train_act.Evaluation, "summary", watched)
    train("--steps", "3", "--training.eval-episodes", "1")
    for name, weight in contents(tmp_path / "run")["model.safetensors"].items():
        assert torch.equal(weight, played[name]), name


def test_an_update_does_not_wait_for_the_device(train, monkeypatch):
    """On a GPU these operations would: they bring a number, or a size, to the CPU."""
    waits, called = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}, []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), named=None):
            called.append(function.name().partition(".")[0])
            return function(*arguments, **(named or {}))

    learn = train_act.Trainer._learn

    def watched(trainer):
        with Watch():
            learn(trainer)

    monkeypatch.setattr(train_act.Trainer, "_learn", watched)
    train("--steps", "8", "--training.eval-episodes", "1")
    assert "aten::l1_loss" in called or "aten::sub" in called
    assert not waits & set(called)


def test_saved_policy_is_the_average_and_not_the_weights(uninterrupted):
    parts = contents(uninterrupted)
    average = parts["model.safetensors"]["model.action_head.weight"]
    weights = parts["trainer.safetensors"]["weights.model.action_head.weight"]
    assert not torch.equal(average, weights)
    torch.testing.assert_close(average, weights, rtol=0.0, atol=0.1)


@pytest.mark.parametrize("dataset, stops", [(0, [1]), (0, [3, 7, 8, 19]), (32, [3])], indirect=["dataset"])
def test_stopped_and_resumed_is_the_same_training(train, tmp_path, monkeypatch, uninterrupted, stops):
    learn, steps = train_act.Trainer._learn, count(1)

    def learn_and_signal(trainer):
        learn(trainer)
        if next(steps) in stops:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(train_act.Trainer, "_learn", learn_and_signal)
    assert [train() for _ in stops] == [False] * len(stops)
    assert train()
    assert_same(contents(tmp_path / "run"), contents(uninterrupted))
    assert metrics(tmp_path / "run") == metrics(uninterrupted)


def test_killed_ten_times_it_ends_with_the_same_weights(tiny, dataset, tmp_path, monkeypatch, uninterrupted):
    """Each child dies inside a step, by SIGKILL, two steps further than the one before."""
    logs = tmp_path / "logs"
    # Checkpoints at every other step, so that each child gets a little further.
    config = tmp_path / "often.yaml"
    config.write_text(TINY.replace("save_freq: 10", "save_freq: 2"))
    script = (
        "import os, sys, train_act\n"
        "learn, stop_at = train_act.Trainer._learn, int(sys.argv.pop(1))\n"
        "def learn_or_die(trainer):\n"
        "    learn(trainer)\n"
        "    if trainer.step == stop_at: os.kill(os.getpid(), 9)\n"
        "train_act.Trainer._learn = learn_or_die\n"
        "while stop_at:\n"
        "    child = os.fork()\n"
        "    if child == 0: train_act.main(); os._exit(0)\n"
        "    status = os.waitpid(child, 0)[1]\n"
        "    assert status == (9 if stop_at < 24 else 0), status\n"
        "    stop_at = stop_at + 2 if stop_at < 24 else 0\n"
    )
    command = [sys.executable, "-c", script, "5", *command_line(config, dataset, logs)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    ours, theirs = contents(logs / "run"), contents(uninterrupted)
    for parts in (ours, theirs):
        del parts["trainer.json"]["kept"]
    assert_same(ours, theirs)


def test_a_finished_training_trains_on(train, tmp_path, uninterrupted):
    """To a larger number of steps; with a constant learning rate as if that had been asked for at once."""
    constant = ("--optimizer.schedule", "constant")
    assert train(*constant, "--steps", "11") and train(*constant)
    trained_on = contents(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    assert train(*constant)
    at_once = contents(tmp_path / "run")
    for parts in (trained_on, at_once):  # the shorter one was evaluated, and so saved, at its end too
        del parts["trainer.json"], parts["evaluation"]
    assert_same(trained_on, at_once)


@pytest.mark.parametrize("source", ["run", "run/checkpoints/last", "run/checkpoints/last/pretrained_model"])
def test_another_run_starts_from_one_of_ours(train, refused, tmp_path, source, capfd):
    """It has the other's weights and none of its checkpoints."""
    constant = ("--optimizer.schedule", "constant")
    train(*constant, "--steps", "10")
    other = (*constant, "--run-name", "other", "--start-from", str(tmp_path / source))
    trained = "has been trained for 10 steps already: steps must be more, got"
    assert f"{trained} 10" in refused(*other, "--steps", "10")
    capfd.readouterr()
    train(*other, "--steps", "12", "--batch-size", "8")
    assert "batch_size and seed are that training's, not the configuration's" in capfd.readouterr().out
    train(*constant, "--steps", "12")
    ours, theirs = (contents(tmp_path / name) for name in ("other", "run"))
    assert ours["trainer.json"]["kept"] == [] and theirs["trainer.json"]["kept"] == ["step_00000010"]
    for part in ("model.safetensors", "optimizer_state.safetensors"):
        assert all(torch.equal(ours[part][name], tensor) for name, tensor in theirs[part].items())
    kept = {path.name for path in (tmp_path / "other" / "checkpoints").iterdir()}
    assert kept == {"last", "best", "step_00000012"}


def test_a_refused_start_claims_no_name(train, refused, tmp_path):
    refused("--dataset.root", "nowhere")
    refused("--start-from", "nowhere")
    refused("--optimizer.lr", "1e30")
    assert train("--steps", "1")
    assert load_yaml(tmp_path / "run" / "config.yaml")["optimizer"]["lr"] == 1e-3


def test_fewer_steps_than_it_has_had(train, refused, tmp_path):
    train("--steps", "2")
    last = tmp_path / "run" / "checkpoints" / "last"
    trained = f"{last} has been trained for 2 steps already: steps must be more, got 1"
    assert refused("--steps", "1") == trained
    assert load_yaml(tmp_path / "run" / "config.yaml")["steps"] == 2


def test_a_run_goes_on_only_as_it_was(train, refused, make_dataset, tmp_path):
    train("--steps", "4")
    assert "was trained with another configuration (batch_size: 4 -> 8)" in refused("--batch-size", "8")
    other = make_dataset(tmp_path / "other", lengths=(9, 5, 11))
    assert "trained on another dataset" in refused("--dataset.root", str(other))
    with only_process_in(tmp_path / "run"):
        assert "another process is training there" in refused()
    train("--no-resume", "--steps", "4")
    assert (tmp_path / "run_2" / "checkpoints" / "last").exists()


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/act_*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_configuration_is_what_lerobot_is_asked_for(path, dataset, tmp_path):
    written = load_yaml(path)
    config = parse(train_act.Config, ["--config", str(path), "--dataset.root", str(dataset)])
    meta = open_dataset(config.dataset)
    terms = train_act.in_lerobots_terms(config, meta, torch.device("cpu"), tmp_path / "run")
    assert (terms.steps, terms.batch_size) == (written["steps"], written["batch_size"])
    assert {name: getattr(terms.policy, name) for name in written["policy"]} == written["policy"]
    assert terms.policy.optimizer_lr == terms.optimizer.lr == written["optimizer"]["lr"]
    backbone = written["optimizer"].get("lr_backbone", OptimizerConfig.lr_backbone)
    assert terms.policy.optimizer_lr_backbone == backbone


@pytest.mark.parametrize(
    "flags, message",
    [
        (("--dataset.root", "nowhere"), "nowhere: no such folder; collect_dataset.py records one"),
        (
            ("--policy.inputs", "observation.image", "observation.state"),
            "the dataset has no observation.image",
        ),
        (("--policy.n-action-steps", "8"), "policy.n_action_steps must be at most chunk_size, 7, got 8"),
        (("--dataset.episodes", "4"), "dataset.episodes must be at most 3, all of"),
        (("--start-from", "nowhere"), "nowhere: no such folder; --start-from takes a checkpoint"),
        (("--policy.hidden-dim", "8"), "unknown flag --policy.hidden-dim; did you mean --policy.dim-model?"),
        (("--push-to-hub", "pusht"), "push_to_hub must be of the form user/policy, got pusht"),
        (("--dataset.root", "None", "--dataset.repo-id", "a/b"), "is that its name, and is there a network?"),
        (("--steps", "0"), "steps must be at least 1, got 0"),
        (("--optimizer.lr", "1e30"), "is not finite after"),
    ],
)
def test_bad_input_is_a_sentence(refused, flags, message):
    assert message in refused(*flags)


def test_a_finished_policy_that_cannot_be_published_is_finished(train, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(SystemExit) as stopped:
        train("--steps", "1", "--push-to-hub", "me/act")
    said = capfd.readouterr()
    assert stopped.value.code == 2 and "finished. Play it" in said.out
    assert (
        said.err.startswith("error: me/act: could not be uploaded (") and "the policy is whole at" in said.err
    )


def test_a_dataset_of_another_state_is_refused_before_it_is_decoded(
    refused, make_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr("act.frames._read_vectors", lambda *_: pytest.fail("decoded"))
    root = make_dataset(tmp_path / "other_state", state_size=7)
    assert "looks at observation.state (7,), which PushT does not show" in refused(
        "--dataset.root", str(root)
    )


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer_state.safetensors", "trainer.safetensors"])
def test_a_damaged_checkpoint_is_a_sentence(train, refused, tmp_path, name):
    train("--steps", "2")
    (file,) = (tmp_path / "run" / "checkpoints" / "last").glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:-50])
    message = refused()
    assert str(tmp_path / "run" / "checkpoints" / "last") in message and "deserializing" in message


def test_chunks_longer_than_every_episode_are_worth_a_warning(train, capfd):
    train("--steps", "1", "--policy.chunk-size", "13")
    warning = (
        "warning: policy.chunk_size 13 is longer than every episode (the longest has 12 frames, the mean 8.7"
    )
    assert warning in capfd.readouterr().err


def test_the_start_up_table_says_what_is_trained(train, capfd):
    train("--steps", "1")
    said = capfd.readouterr().out
    for word in (
        "3 episodes, 26 frames, 10 fps",
        "observation.environment_state (16,)",
        "5 to 12 frames",
        "run ",
    ):
        assert word in said


@pytest.mark.parametrize(
    "flags, file, steps, coeff",
    [
        ("", "evaluation_best.json", 3, None),
        ("--n-action-steps 2", "evaluation_best_n2.json", 2, None),
        ("--temporal-ensemble-coeff 0.01", "evaluation_best_ensemble0.01.json", 1, 0.01),
    ],
)
def test_evaluate_plays_the_run(uninterrupted, tmp_path, capfd, flags, file, steps, coeff):
    played = f"--policy {uninterrupted} --episodes 2 --output {tmp_path} {flags}"
    evaluate.main(played.split())
    written = load_json(tmp_path / file)
    assert (written["n_action_steps"], written["temporal_ensemble_coeff"]) == (steps, coeff)
    assert ("on the average of overlapping chunks" in capfd.readouterr().out) == bool(coeff)


def test_a_fingerprint_is_of_the_weights_and_not_of_what_lies_beside_them(uninterrupted, tmp_path):
    last = shutil.copytree(uninterrupted / "checkpoints" / "last", tmp_path / "last")
    before = fingerprint(last)
    (last / "evaluation.json").unlink()
    assert fingerprint(last) == before
    weights = load_tensors(last / "pretrained_model" / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1.0
    save_tensors(last / "pretrained_model" / "model.safetensors", weights)
    assert fingerprint(last) != before


def test_pictures_train_real_batch_norms_and_play(make_dataset, tmp_path, tiny):
    root = make_dataset(tmp_path / "pictures", lengths=(4, 3), pictures=96, keypoints=False)
    flags = ["--steps", "2", "--training.eval-episodes", "1", "--policy.n-action-steps", "7"]
    train_act.main(command_line(tiny, root, tmp_path, *flags))
    parts = contents(tmp_path / "run")
    assert parts["trainer.json"]["trains_batch_norms"]
    assert parts["config.json"]["input_features"].keys() == {"observation.image", "observation.state"}
    train_act.main(command_line(tiny, root, tmp_path, *flags[2:], "--steps", "3"))
    assert contents(tmp_path / "run")["training_step.json"]["step"] == 3


def test_a_last_batch_too_small_for_batch_norms_is_a_sentence(make_dataset, tmp_path, tiny, capfd):
    root = make_dataset(tmp_path / "pictures", lengths=(5, 4), pictures=32, keypoints=False)
    with pytest.raises(SystemExit):
        train_act.main(command_line(tiny, root, tmp_path))
    assert "batch_size 4 leaves one of 9 frames for the last batch" in capfd.readouterr().err


def test_two_processes_learn_what_one_learns_of_their_batches(dataset, tmp_path):
    """Batches of 2 and 2 beside batches of 4; without padding, which the halves share unevenly."""
    flags = (
        f"--dataset.root {dataset} --run-name run --steps 3 --policy.chunk-size 1 --policy.n-action-steps 1"
    )
    flags += " --policy.dropout 0 --policy.no-use-vae"
    configs = {}
    for processes in (1, 2):  # torchrun would take --logs for a flag of its own
        configs[processes] = tmp_path / f"{processes}.yaml"
        configs[processes].write_text(f"logs: {tmp_path / str(processes)}\n{TINY}")
    train_act.main(["--config", str(configs[1]), *flags.split()])
    launch = f"-m torch.distributed.run --nproc_per_node 2 train_act.py --config {configs[2]} --batch-size 2"
    command = [sys.executable, *launch.split(), *flags.split()]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)

    one, two = (contents(tmp_path / str(processes) / "run") for processes in (1, 2))
    assert two["training_step.json"] == {"step": 3, "num_processes": 2, "batch_size": 2}
    for name, weight in two["model.safetensors"].items():
        if not name.endswith("in_proj_bias"):  # a third of it has a gradient of rounding only
            torch.testing.assert_close(weight, one["model.safetensors"][name], rtol=1e-4, atol=1e-5, msg=name)
