"""What a training of ACT from the command line leaves, and what becomes of it."""

import math
import shutil
import subprocess
import sys
from copy import deepcopy

import pytest
import torch
from huggingface_hub import HfApi
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.utils.constants import IMAGENET_STATS
from torch.utils._python_dispatch import TorchDispatchMode

import evaluate
import train_act
from common.checkpoint import save_tensors
from common.untrusted import load_json, load_tensors
from policies import fingerprint
from tests.adam import assert_same_weights, raise_epsilon
from tests.runs import metrics
from tests.train_act.runs import command_line, contents, in_processes, of_torchrun

pytestmark = pytest.mark.slow


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
    ("results", "best"),
    [
        ([(0.5, 0.6), (0.5, 0.7), (0.4, 0.9)], "step_00000016"),
        ([(0.5, 0.7), (0.5, 0.6), (0.4, 0.9)], "step_00000008"),
        ([(0.5, 0.7), (0.5, 0.7), (0.4, 0.9)], "step_00000016"),
    ],
)
def test_best_is_by_success_then_by_coverage_then_the_latest(train, tmp_path, monkeypatch, results, best):
    calls = iter(results)

    def summary(_evaluation, _policy):
        success, coverage = next(calls)
        numbers = ["mean_steps_to_success", "avg_sum_reward", "action_step_mean", "action_step_p99"]
        return {"success_rate": success, "mean_max_coverage": coverage} | dict.fromkeys(numbers, 1.0)

    monkeypatch.setattr(train_act.Evaluation, "summary", summary)
    train()
    assert (tmp_path / "run" / "checkpoints" / "best").resolve().name == best


def test_the_average_is_what_is_evaluated(train, tmp_path, monkeypatch):
    summary, played = train_act.Evaluation.summary, {}

    def watched(evaluation, policy):
        played.update(deepcopy(policy.state_dict()))
        return summary(evaluation, policy)

    monkeypatch.setattr(train_act.Evaluation, "summary", watched)
    train("--steps", "3", "--training.eval-episodes", "1")
    for name, weight in contents(tmp_path / "run")["model.safetensors"].items():
        assert torch.equal(weight, played[name]), name


def test_saved_policy_is_the_average_and_not_the_weights(uninterrupted):
    parts = contents(uninterrupted)
    average = parts["model.safetensors"]["model.action_head.weight"]
    weights = parts["trainer.safetensors"]["weights.model.action_head.weight"]
    assert not torch.equal(average, weights)
    torch.testing.assert_close(average, weights, rtol=0.0, atol=0.1)


@pytest.mark.parametrize(
    "dataset, flags",
    [(0, ()), *(pytest.param(16, flags) for flags in ((), ("--dataset.mirror",)))],
    indirect=["dataset"],
)
def test_an_update_does_not_wait_for_the_device(train, monkeypatch, flags):
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
    train("--steps", "8", "--training.eval-episodes", "1", *flags)
    assert "aten::l1_loss" in called or "aten::sub" in called
    assert not waits & set(called)


def test_pictures_train_real_batch_norms_and_play(make_dataset, tmp_path, tiny):
    root = make_dataset(tmp_path / "pictures", lengths=(4, 3), pictures=96, keypoints=False)
    flags = ["--steps", "2", "--training.eval-episodes", "1", "--policy.n-action-steps", "7"]
    train_act.main(command_line(tiny, root, tmp_path, *flags))
    parts = contents(tmp_path / "run")
    assert parts["trainer.json"]["trains_batch_norms"]
    assert parts["config.json"]["input_features"].keys() == {"observation.image", "observation.state"}
    train_act.main(command_line(tiny, root, tmp_path, *flags[2:], "--steps", "3"))
    assert contents(tmp_path / "run")["training_step.json"]["step"] == 3

    # What is saved has the statistics of the dataset's pictures, seen through its own weights.
    saved = tmp_path / "run" / "checkpoints" / "last" / "pretrained_model"
    backbone = ACTPolicy.from_pretrained(saved).model.backbone
    pictures = torch.stack([frame["observation.image"] for frame in LeRobotDataset("local/x", root=root)])
    mean, std = (torch.tensor(IMAGENET_STATS[key]) for key in ("mean", "std"))
    activations = backbone.conv1((pictures - mean) / std).detach()
    torch.testing.assert_close(backbone.bn1.running_mean, activations.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(backbone.bn1.running_var, activations.var((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_two_processes_learn_what_one_learns_of_their_batches(tiny, dataset, tmp_path, monkeypatch):
    """Batches of 2 and 2 beside batches of 4; without padding, which the halves share unevenly."""
    flags = "--steps 3 --policy.chunk-size 1 --policy.n-action-steps 1 --policy.dropout 0 --policy.no-use-vae"
    raise_epsilon(monkeypatch)
    for count, size in ((1, "4"), (2, "2")):
        logs = tmp_path / str(count)
        argv = command_line(tiny, dataset, logs, *flags.split(), "--batch-size", size)
        assert in_processes(count, argv) == [0] * count
    one, two = (contents(tmp_path / str(count) / "run") for count in (1, 2))
    assert two["training_step.json"] == {"step": 3, "num_processes": 2, "batch_size": 2}
    assert_same_weights(two["model.safetensors"], one["model.safetensors"])


def test_torchrun_tells_its_processes_what_these_tests_tell_theirs(tmp_path):
    """And it leaves the script its flags."""
    script = tmp_path / "tell.py"
    script.write_text(
        "import json, os, sys\n"
        "told = {'argv': sys.argv[1:], 'environment': dict(os.environ)}\n"
        "open(os.environ['RANK'] + '.json', 'w').write(json.dumps(told))\n"
    )
    flags = ["--config", "any.yaml", "--batch-size", "2"]
    launch = f"-m torch.distributed.run --standalone --nproc_per_node 2 {script}"
    subprocess.run([sys.executable, *launch.split(), *flags], cwd=tmp_path, check=True, timeout=300)
    for rank in range(2):
        told = load_json(tmp_path / f"{rank}.json")
        assert told["argv"] == flags
        expected = {name: str(value) for name, value in of_torchrun(rank, 2).items()}
        assert expected.items() <= told["environment"].items()
        assert {"MASTER_ADDR", "MASTER_PORT"} <= told["environment"].keys()


def test_the_best_policy_is_published_where_lerobot_looks_for_it(train, tmp_path, monkeypatch, capfd):
    hub = {}
    monkeypatch.setattr(HfApi, "create_repo", lambda _, name, **told: hub.update({name: told["repo_type"]}))
    monkeypatch.setattr(
        HfApi,
        "upload_folder",
        lambda _, repo_id, folder_path: hub.update({p.name: p.read_bytes() for p in folder_path.iterdir()}),
    )
    train("--steps", "1", "--push-to-hub", "me/act")
    assert capfd.readouterr().out.endswith("published https://huggingface.co/me/act\n")
    best = tmp_path / "run" / "checkpoints" / "best" / "pretrained_model"
    assert hub == {"me/act": "model"} | {path.name: path.read_bytes() for path in best.iterdir()}
    assert {"config.json", "model.safetensors"} <= hub.keys()


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
    assert ("average of overlapping chunks" in capfd.readouterr().out) == bool(coeff)


def test_a_fingerprint_is_of_the_weights_and_not_of_what_lies_beside_them(uninterrupted, tmp_path):
    last = shutil.copytree(uninterrupted / "checkpoints" / "last", tmp_path / "last")
    before = fingerprint(last)
    (last / "evaluation.json").unlink()
    assert fingerprint(last) == before
    weights = load_tensors(last / "pretrained_model" / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] += 1.0
    save_tensors(last / "pretrained_model" / "model.safetensors", weights)
    assert fingerprint(last) != before
