"""Tiny trainings of ACT: how to start one, and what it leaves."""

import json
import multiprocessing
import os
import socket
from pathlib import Path
from typing import Any

import torch
from accelerate.state import AcceleratorState, PartialState

import train_act
from common.untrusted import load_tensors
from tests.runs import last_of_each

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
training: {log_every: 5, eval_every: 8, keep_every: 10, eval_episodes: 2, video_every: 24}
"""


def command_line(tiny: Path, dataset: Path, logs: Path, *flags: str) -> list[str]:
    usual = ("--config", str(tiny), "--dataset.root", str(dataset), "--logs", str(logs), "--run-name", "run")
    return last_of_each([*usual, *flags])


def in_processes(count: int, argv: list[str]) -> list[int | None]:
    """Train in processes as `torchrun` starts them, and return their exit codes.

    They are forked, which spares them the imports and gives them what a test has patched.
    """
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    children = [
        multiprocessing.get_context("fork").Process(target=_train_as, args=(rank, count, port, argv))
        for rank in range(count)
    ]
    for child in children:
        child.start()
    for child in children:
        child.join(timeout=300)
        child.kill()
    return [child.exitcode for child in children]


def of_torchrun(rank: int, count: int) -> dict[str, int]:
    """What its processes read of who they are."""
    return {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count}


def _train_as(rank: int, count: int, port: int, argv: list[str]) -> None:
    if count > 1:
        os.environ |= {name: str(value) for name, value in of_torchrun(rank, count).items()}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    AcceleratorState._reset_state(reset_partial_state=True)  # accelerate remembers that it was alone
    PartialState._reset_state()
    raise SystemExit(0 if train_act.main(argv) else 1)


def _read(file: Path) -> Any:
    return json.loads(file.read_text()) if file.suffix == ".json" else load_tensors(file)


def contents(run: Path, checkpoint: str = "last") -> dict[str, Any]:
    """Everything that a checkpoint holds and that does not name its folder; fails where it is not whole."""
    folder = run / "checkpoints" / checkpoint
    parts = {"evaluation": _read(folder / "evaluation.json")}
    for file in [*(folder / "pretrained_model").iterdir(), *(folder / "training_state").iterdir()]:
        if file.name != "train_config.json":
            parts[file.name] = _read(file)
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
