"""Tiny trainings: how to start one, and what it leaves."""

import multiprocessing
import resource
from pathlib import Path
from typing import Any

import torch

import train_sac
from common.untrusted import load_json, load_tensors
from tests.runs import last_of_each, metrics

MORE = ("--total-env-steps", "1600")


def command_line(tiny: Path, logs: Path, *flags: str) -> list[str]:
    return last_of_each(["--config", str(tiny), "--logs", str(logs), "--run-name", "run", *flags])


def start(argv: list[str], file_size_limit: int = resource.RLIM_INFINITY) -> multiprocessing.Process:
    """Train in a process of its own; forked, since imports take longer than all of the training."""

    def main() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, resource.RLIM_INFINITY))
        train_sac.main(argv)

    child = multiprocessing.get_context("fork").Process(target=main)
    child.start()
    return child


def contents(run: Path, checkpoint: str = "last") -> dict[str, Any]:
    """Everything that a checkpoint holds; fails where it is not whole."""
    folder = run / "checkpoints" / checkpoint
    return {
        "config": load_json(folder / "config.json"),
        "model": load_tensors(folder / "model.safetensors"),
        "counters": load_json(folder / "training_state" / "counters.json"),
        "tensors": load_tensors(folder / "training_state" / "tensors.safetensors"),
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["config"] == theirs["config"] and ours["counters"] == theirs["counters"]
    for part in ("model", "tensors"):
        assert ours[part].keys() == theirs[part].keys()
        for name, tensor in theirs[part].items():
            assert ours[part][name].numpy().tobytes() == tensor.numpy().tobytes(), name


def assert_same_run(run: Path, other: Path) -> None:
    assert_same(contents(run), contents(other))
    models = [load_tensors(each / "checkpoints" / "best" / "model.safetensors") for each in (run, other)]
    torch.testing.assert_close(*models, rtol=0, atol=0)
    assert metrics(run) == metrics(other)
