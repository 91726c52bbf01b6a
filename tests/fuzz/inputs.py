"""The valid inputs: tiny trainings, datasets and demonstrations, and the command lines that open them."""

import csv
import json
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

import collect_dataset
import train_act
import train_sac
from policies import ASSETS

EXPERT = str(ASSETS / "sac_expert_fast")
SPEED = ", speed_limit: [60.0, 20.0], speed_ramp: [20, 80]"
TINY_SAC = f"""
total_env_steps: 120
device: cpu
threads: 1
env: {{num_envs: 2, features: [agent_pos, block_pos]{SPEED}}}
agent: {{hidden_sizes: [8, 8], batch_size: 8, lr: 3.0e-4, n_step: 2}}
training: {{start_steps: 40, utd: 0.1, buffer_capacity: 100, log_every: 20, eval_every: 60, eval_episodes: 1,
  video_every: 0}}
"""
TINY_FRAMES = """
task: visual_pendulum
total_env_steps: 120
device: cpu
threads: 1
env: {num_envs: 2, action_repeat: 2, pixels: {size: 12, stack: 2}}
agent:
  hidden_sizes: [8, 8]
  batch_size: 4
  encoder: {filters: [4, 5], kernels: [3, 3], strides: [2, 1], features: 6, shift: 1, views: 2}
training: {start_steps: 40, utd: 0.1, buffer_capacity: 100, log_every: 20, eval_every: 60, eval_episodes: 1,
  video_every: 0}
"""
TINY_ACT = """
steps: 3
batch_size: 5
device: cpu
threads: 1
policy: {chunk_size: 7, n_action_steps: 3, dim_model: 16, n_heads: 2, dim_feedforward: 16,
  n_encoder_layers: 1, n_vae_encoder_layers: 1, latent_dim: 4, backbone_weights: none}
optimizer: {lr: 1.0e-3, warmup_steps: 4, ema: 0.9}
training: {log_every: 1, eval_every: 2, keep_every: 2, eval_episodes: 1, video_every: 0}
"""
TINY_DIFFUSION = """
steps: 3
batch_size: 5
device: cpu
threads: 1
policy: {type: diffusion, horizon: 8, n_action_steps: 3, down_dims: [8], n_groups: 4, num_train_timesteps: 10,
  diffusion_step_embed_dim: 8, num_inference_steps: 2}
training: {eval_every: 0}
"""
TINY_FLOW = """
steps: 3
batch_size: 5
device: cpu
threads: 1
policy: {type: flow, chunk_size: 7, n_action_steps: 3, hidden_size: 8, n_layers: 2, num_inference_steps: 2}
training: {eval_every: 0}
"""


@dataclass
class Case:
    """A changed copy of a valid input."""

    folder: Path
    valid: Path
    changed: str = ""  # the file in it
    said: bytes = b""  # by that file, before it was opened

    @property
    def path(self) -> Path:
        return self.folder / self.changed


def make_sac(folder: Path, config: str = TINY_SAC) -> None:
    (folder / "config.yaml").write_text(config)
    (folder / "flags.json").write_text("[]")
    train_sac.main(sac_flags(folder))


def make_steered(folder: Path) -> None:
    """A diffusion and a flow policy in `logs`, and a run that steers the latter."""
    record(folder, "keypoints")
    for name, settings in (("diffusion", TINY_DIFFUSION), ("flow", TINY_FLOW)):
        (folder / "config.yaml").write_text(settings)
        train_act.main(act_flags(folder, name))
    frozen = f"steering: {{policy: {folder / 'logs/flow'}, n_action_steps: 3, rank: 1}}\nsteer_anyway: true\n"
    own = TINY_SAC.replace("env: {", "env: {mirror: false, ").replace(SPEED, "")
    make_sac(folder, own + frozen)


def make_act(folder: Path, observations: str = "keypoints") -> None:
    (folder / "config.yaml").write_text(TINY_ACT)
    (folder / "flags.json").write_text("[]")
    record(folder, observations)
    train_act.main(act_flags(folder))


def record(folder: Path, observations: str) -> None:
    words = f"--observations {observations} --resolution 32 --episodes 3 --seed 7000 --all --hold 0"
    collect_dataset.main(["--root", str(folder / "set"), "--policy", EXPERT, *words.split()])


def make_people(folder: Path) -> None:
    make_act(folder)
    frames = read_frames(folder / "set")
    arrays = {
        "state": np.stack(frames["sim.state"])[:, :5].astype(np.float32),
        "action": np.stack(frames["action"]),
        "episode_ends": np.cumsum(frames.groupby("episode_index").size().to_numpy()),
    }
    np.savez(folder / "people.npz", **arrays)
    for name, values in arrays.items():  # zarr 2, in one chunk, not compressed
        array = folder / "people.zarr" / name
        array.mkdir(parents=True)
        info = {"zarr_format": 2, "shape": values.shape, "chunks": values.shape, "order": "C"}
        info |= {"fill_value": 0, "dtype": values.dtype.str, "compressor": None, "filters": None}
        (array / ".zarray").write_text(json.dumps(info))
        (array / ".".join("0" * values.ndim)).write_bytes(values.tobytes())


SOURCES = {"sac": make_sac, "steered": make_steered, "act": make_act, "people": make_people}
SOURCES |= {"frames": partial(make_sac, config=TINY_FRAMES)}
SOURCES |= {"pictures": partial(make_act, observations="pixels")}
SOURCES |= {"films": partial(make_act, observations="pixels --video")}


def sac_flags(folder: Path, run: str = "run") -> list[str]:
    return ["--config", str(folder / "config.yaml"), "--logs", str(folder / "logs"), "--run-name", run]


def act_flags(folder: Path, run: str = "run") -> list[str]:
    return [*sac_flags(folder, run), "--dataset.root", str(folder / "set")]


def evaluate_flags(folder: Path, _: str) -> list[str]:
    return f"--policy random --episodes 2 --num-envs 2 --output {folder / 'out'}".split()


def collect_flags(folder: Path, _: str) -> list[str]:
    return f"--policy random --episodes 1 --all --hold 0 --root {folder / 'new'} --give-up 3".split()


def read_frames(root: Path) -> pd.DataFrame:
    return read_tables(root / "data")


def read_tables(folder: Path) -> pd.DataFrame:
    """Of all files, the columns that are not damaged: a training does not read the others."""
    return pd.concat(map(_readable, sorted(folder.rglob("*.parquet"))), ignore_index=True)


def _readable(path: Path) -> pd.DataFrame:
    with suppress(OSError, pa.ArrowException):
        return pd.read_parquet(path)
    columns = {}
    for name in pq.read_schema(path).names:
        with suppress(OSError, pa.ArrowException):
            columns[name] = pd.read_parquet(path, columns=[name])[name]
    return pd.DataFrame(columns)


def read_rows(text: str) -> list[dict[str, str]]:
    return [{k: v for k, v in row.items() if v} for row in csv.DictReader(text.splitlines())]
