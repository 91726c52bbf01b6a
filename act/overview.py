"""What a training prints at its start: what is trained, and a warning."""

import sys

import torch
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.utils.constants import ACTION

from act.frames import Frames
from act.trainer import Trainer


def start_up_table(trainer: Trainer, meta: LeRobotDatasetMetadata, origin: str) -> dict[str, str]:
    """What is about to be trained.

    Args:
        trainer: ready.
        meta: of its dataset.
        origin: what the policy begins with, in words.
    """
    frames, pipeline_config = trainer.frames, trainer.pipeline_config
    policy, processes = trainer.learner.policy, trainer.accelerator.num_processes
    size = sum(p.numel() for p in policy.parameters())
    lengths, precision = frames.lengths, trainer.learner.config.precision
    steps, batch_size = pipeline_config.steps, pipeline_config.batch_size
    shapes = {name: tuple(f.shape) for name, f in (policy.config.input_features or {}).items()}
    inputs = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    n_action_steps = getattr(policy.config, "n_action_steps", frames.chunk_size)
    epochs = steps * trainer.samples_per_step / frames.num_samples
    return {
        "dataset": f"{meta.root}: {len(lengths):,} episodes, {frames.num_recorded:,} frames, {meta.fps} fps"
        + (", and their mirror images" if frames.mirror else "")
        + (f"; {frames.num_samples:,} samples" if frames.num_samples < frames.num_frames else ""),
        "episodes": f"{lengths.min()} to {lengths.max()} frames, {lengths.mean():.1f} on average",
        "input": f"{inputs}; decoded, {frames.place()}",
        "output": f"action {tuple(frames.vectors[ACTION].shape[1:])}, chunks of {frames.chunk_size}, "
        f"{n_action_steps} of them played",
        "policy": f"{trainer.learner.kind.title}, {size:,} parameters; {origin}",
        "device": f"{trainer.learner.device}, {processes} process{'' if processes == 1 else 'es'}, "
        f"{torch.get_num_threads()} CPU threads, {precision}",
        "length": f"{steps:,} steps of {batch_size} samples, {epochs:,.1f} epochs",
    }


def warn_of_long_chunks(frames: Frames) -> None:
    """Print a warning where no episode is as long as a chunk."""
    longest, mean = frames.lengths.max(), frames.lengths.mean()
    if frames.chunk_size > longest:
        print(
            f"warning: a chunk of {frames.chunk_size} steps is longer than every episode "
            f"(the longest has {longest} frames, the mean {mean:.1f}), so the end of each is padding",
            file=sys.stderr,
        )
