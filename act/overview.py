"""What is said before a training begins: a table of what is about to happen, and what looks odd about it."""

import sys

import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

from act.frames import Frames
from act.trainer import Trainer


def start_up_table(trainer: Trainer, meta: LeRobotDatasetMetadata, backbone: str) -> str:
    """What is about to be trained.

    Args:
        trainer: ready.
        meta: of its dataset.
        backbone: what the ResNet begins with, in words.
    """
    frames, terms, policy = trainer.frames, trainer.lerobot, trainer.lerobot.policy
    size = sum(p.numel() for p in trainer.learner.policy.parameters())
    lengths, precision = frames.lengths, trainer.learner.config.precision
    inputs = ", ".join(f"{name} {tuple(f.shape)}" for name, f in policy.input_features.items())
    processes = trainer.accelerator.num_processes
    logs = trainer.checkpoints.folder.parents[1]
    rows = {
        "run": f"{terms.output_dir.name} in {logs}, seed {terms.seed}",
        "dataset": f"{meta.root}: {len(lengths):,} episodes, {frames.num_recorded:,} frames, {meta.fps} fps"
        f"{', and their mirror images' * frames.mirror}",
        "episodes": f"{lengths.min()} to {lengths.max()} frames, {lengths.mean():.1f} on average",
        "input": f"{inputs}; decoded, {frames.place()}",
        "output": f"action (2,), chunks of {policy.chunk_size}, {policy.n_action_steps} of them played",
        "policy": f"ACT, {size:,} parameters; ResNet: {backbone}",
        "device": f"{trainer.learner.device}, {processes} process{'es' * (processes > 1)}, "
        f"{torch.get_num_threads()} CPU threads, {precision}",
        "length": f"{terms.steps:,} steps of {terms.batch_size} samples, "
        f"{terms.steps * trainer.samples_per_step / frames.num_frames:,.1f} epochs",
        "watch": f"tensorboard --logdir {logs}",
    }
    return "\n".join(f"  {name:<10} {value}" for name, value in rows.items())


def warn_of_long_chunks(chunk_size: int, frames: Frames) -> None:
    """Say so where no episode is as long as a chunk."""
    longest, mean = frames.lengths.max(), frames.lengths.mean()
    if chunk_size > longest:
        print(
            f"warning: policy.chunk_size {chunk_size} is longer than every episode "
            f"(the longest has {longest} frames, the mean {mean:.1f}), "
            "so the end of each chunk is padding that nothing is learnt from",
            file=sys.stderr,
        )
