"""A run from a stranger, resumed or started from: its state has types and bounds, and runs nothing."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import save_tensors
from common.untrusted import load_json, load_tensors
from tests.security.payloads import pickled

pytestmark = pytest.mark.slow

HUGE = 10**9
NUMBERS = [-1, HUGE, 0.5, "1", None, True]
EVALUATIONS = [{"step": 3}, {"score": 1.0}, [], {"env_steps": 1, "step": 1, "success_rate": "all"}]
KEPT = [["../../x"], ["step_1/.."], [1], "step_1", ["last"]]
COUNTERS = {
    **dict.fromkeys(("env_steps", "updates", "replay_position"), NUMBERS),
    **dict.fromkeys(("evaluation", "best"), EVALUATIONS),
    "kept": KEPT,
    "returns": [[float("nan")], ["x"], [None], 1],
    "exploration": [{}, {"bit_generator": "MT19937", "state": {"pos": HUGE}}, None],
    "env": [{}, {"rng": {}, "env_steps": 1}],
    "surplus": [1],
}
TRAINER = {
    "epoch": [-1, 0.5, "1", None, True],
    **dict.fromkeys(("drawn",), NUMBERS),
    "summed": [-1, 0.5, "1", None],
    "metrics": [{"Loss/l1": "x"}, {"Loss/l1": {}}, [], None],
    **dict.fromkeys(("evaluation", "best"), EVALUATIONS),
    "kept": KEPT,
    "trains_batch_norms": ["yes", 1],
    "surplus": [1],
}
STEP = {
    "step": [-1, 0.5, "1", None, True, [1]],
    "num_processes": [0, -1, "x"],
    "batch_size": [0, -1, 0.5],
}
ABSENT = object()


def spoilt(kind: str, file: str, values: dict) -> list:
    return [
        pytest.param(kind, file, key, value, id=f"{file} {key} {i}")
        for key, others in values.items()
        for i, value in enumerate([*others, ABSENT] if key in others_required(file) else others)
    ]


def others_required(file: str) -> tuple[str, ...]:
    return {"counters.json": tuple(COUNTERS)[:-1], "trainer.json": ("epoch", "best", "kept")}.get(
        file, ("step",)
    )


def change(file: Path, key: str, value: object) -> None:
    content = load_json(file) | {key: value}
    if value is ABSENT:
        del content[key]
    file.write_text(json.dumps(content))


def contents(run: Path) -> dict[str, bytes]:
    files = [path for path in (run / "checkpoints").rglob("*") if path.is_file()]
    return {str(path.relative_to(run)): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("run", "file", "key", "value"),
    [
        *spoilt("sac", "counters.json", COUNTERS),
        *spoilt("act", "trainer.json", TRAINER),
        *spoilt("act", "training_step.json", STEP),
    ],
    indirect=["run"],
)
def test_a_state_out_of_range_is_refused_and_nothing_pruned(run, resume, told, file, key, value):
    change(run / "checkpoints/last/training_state" / file, key, value)
    before = contents(run)
    assert str(run) in told(resume, run)
    assert contents(run) == before


@pytest.mark.parametrize("run", ["sac"], indirect=True)
def test_steps_of_the_environments_are_those_of_the_training(run, resume, told):
    file = run / "checkpoints/last/training_state/counters.json"
    env = load_json(file)["env"]
    steps = env["env_steps"]
    for other in (steps + 1, 2**63 - 1, float(steps)):
        change(file, "env", env | {"env_steps": other})
        assert f"env.env_steps must be {steps}" in told(resume, run)


def nan(tensor: torch.Tensor) -> torch.Tensor:
    return torch.full_like(tensor, float("nan"))


TENSORS = {
    "sac": {
        "replay.actions": nan,
        "replay.rewards": lambda t: t[:1],
        "replay.observations": lambda t: t[:1],
        "window.actions": nan,
        "env.actions": nan,
        "env.lengths": lambda t: t + HUGE,
        "env.seeds": lambda t: t[:1],
        "env.returns": lambda t: t[:1],
        "env.start_states": lambda t: t[:1],
        "detours.left": lambda t: t - HUGE,
        "detours.offsets": lambda t: t.repeat(2, 1),
        "agent.log_alpha": nan,
        "agent.optimizer.actor.0.exp_avg": lambda t: t[:1],
        "agent.optimizer.critics.1.step": lambda t: t.repeat(0),
        "trainer.sampling": lambda t: torch.zeros_like(t),
    },
    "act": {
        "trainer:sums": lambda t: t[:1],
        "rng_state:np_rng_state_index": lambda t: t + HUGE,
        "rng_state:py_rng_state": lambda t: t[:3],
        "rng_state:torch_rng_state": lambda t: t[:3],
        "optimizer_state:state/0/exp_avg": lambda t: t[:1],
        "optimizer_state:state/0/exp_avg_sq": nan,
        "optimizer_state:state/1/step": lambda t: t.repeat(0),
        "optimizer_state:state": lambda t: torch.zeros(1),
    },
}


@pytest.mark.parametrize(
    ("run", "name"), [(kind, name) for kind in TENSORS for name in TENSORS[kind]], indirect=["run"]
)
def test_tensors_that_do_not_fit_are_refused(run, resume, told, name):
    file, _, key = name.rpartition(":")
    path = run / f"checkpoints/last/training_state/{file or 'tensors'}.safetensors"
    tensors = load_tensors(path)
    tensors[key] = TENSORS[run.parent.name][name](tensors.get(key, torch.zeros(1)))
    save_tensors(path, tensors)
    before = contents(run)
    state = np.random.get_state()[1].copy()
    assert "checkpoints/last" in told(resume, run)
    assert contents(run) == before
    assert (np.random.get_state()[1] == state).all() or "rng_state" not in name


FILES = {
    "sac": ("tensors.safetensors", "counters.json"),
    "act": (
        *("optimizer_state.safetensors", "rng_state.safetensors", "trainer.safetensors"),
        *("trainer.json", "training_step.json"),
    ),
}


@pytest.mark.parametrize("how", ["pickle", "pipe", "missing"])
@pytest.mark.parametrize(
    ("run", "name"), [(kind, name) for kind in FILES for name in FILES[kind]], indirect=["run"]
)
def test_a_state_that_is_not_whole_prunes_nothing(run, resume, told, tmp_path, name, how):
    path = run / "checkpoints/last/training_state" / name
    path.unlink()
    if how == "pickle":
        path.write_bytes(pickled(str(tmp_path / "MARK")))
    elif how == "pipe":
        os.mkfifo(path)
    before = contents(run)
    assert "training_state" in told(resume, run)
    assert contents(run) == before and not (tmp_path / "MARK").exists()


def as_lerobots(checkpoint: Path) -> None:
    """Take from a checkpoint what only we write."""
    for file in ("training_state/trainer.json", "training_state/trainer.safetensors", "evaluation.json",
                 "pretrained_model/task.json"):  # fmt: skip
        (checkpoint / file).unlink()


def test_lerobots_checkpoint_prunes_none_of_what_stays(run, resume):
    """Of a run of ours that lerobot-train took over, and of which nothing says any more what was to stay."""
    checkpoints = run / "checkpoints"
    as_lerobots((checkpoints / "last").resolve())
    (checkpoints / "last").resolve().rename(checkpoints / "000012")
    (checkpoints / "last").unlink()
    (checkpoints / "last").symlink_to("000012")
    (checkpoints / "000006").mkdir()
    assert resume(run)
    there = {path.name for path in checkpoints.iterdir()}
    assert {"step_00000010", "000012", "000006", "step_00000014"} <= there


PIPELINES = {  # changes of train_config.json
    "another policy": {"policy": {"type": "pi0"}},
    "a policy's path": {"policy": "evil/policy"},
    "no policy": {"policy": None},
    "an environment's package": {"env": {"type": "evil", "package_name": "evil"}},
    "a plugin": {"env": {"type": "pusht", "discover_packages_path": "evil"}},
    "a target": {"_target_": "evil.Step"},
    "an unknown optimiser": {"optimizer": {"type": "evil.Step"}},
    "a negative rate": {"optimizer": {"type": "adamw", "lr": -1.0}},
    "an impossible average": {"optimizer": {"type": "adamw", "betas": [2.0, 2.0]}},
    "an unknown schedule": {"scheduler": {"type": "evil"}},
    "another optimiser": {"optimizer": {"type": "sgd"}},
    "no batch": {"batch_size": 0},
    "a negative batch": {"batch_size": -5},
    "a negative seed": {"seed": -5},
    "a batch in words": {"batch_size": {"class": "evil"}},
    "include": {"job_name": "!include evil.yaml", "steps": "include evil.yaml"},
}


@pytest.mark.parametrize("changes", PIPELINES.values(), ids=PIPELINES)
def test_a_foreign_training_to_start_from_imports_nothing(
    run, trainings, told, tmp_path, monkeypatch, changes
):
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'MARK')!r}, 'w')")
    monkeypatch.syspath_prepend(str(tmp_path))
    file = run / "checkpoints/last/pretrained_model/train_config.json"
    file.write_text(json.dumps(load_json(file) | changes))
    flags = ("--run-name", "other", "--steps", "14", "--start-from", str(run))
    assert str(run) in told(trainings[1]["act"], tmp_path, *flags)
    assert not (tmp_path / "MARK").exists()


@pytest.mark.parametrize(
    "changes",
    [{"dropout": "-1"}, {"dropout": 2}, {"n_heads": "3"}, {"n_heads": 3}, {"dim_model": "6"}],
    ids=str,
)
def test_a_policy_that_cannot_be_made_is_no_start(run, trainings, told, tmp_path, changes):
    """Numbers as text too, which LeRobot takes for numbers."""
    file = run / "checkpoints/last/pretrained_model/train_config.json"
    content = load_json(file)
    file.write_text(json.dumps(content | {"policy": content["policy"] | changes}))
    flags = ("--run-name", "other", "--steps", "14", "--start-from", str(run))
    assert str(run) in told(trainings[1]["act"], tmp_path, *flags)
