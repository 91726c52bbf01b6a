"""A checkpoint of SAC: `config.json` and `model.safetensors` play, its training state continues."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from common import checkpoint, untrusted
from common.bounds import Steps
from common.checkpoint import part
from common.errors import UserError, reason, show
from common.seeding import restore_generator
from common.training import check_evaluation
from envs.steering import FROZEN
from sac.frame_replay import FrameReplay

if TYPE_CHECKING:
    from sac.trainer import Trainer

COUNTERS = "counters.json"  # of the state
FRAMES = "frames"  # of the state: the pictures of the replay


@dataclass(frozen=True)
class Counters:
    """`counters.json`: all that is no tensor."""

    env_steps: Steps = 0
    updates: Steps = 0
    replay_position: Steps = 0  # where the next transition goes; of pictures, how many were ever stored
    evaluation: dict = field(default_factory=dict)  # the latest summary
    best: dict = field(default_factory=dict)  # that of the best checkpoint
    kept: tuple[str, ...] = ()  # names of checkpoints that stay
    returns: tuple[float, ...] = ()  # of the latest episodes
    successes: tuple[bool | float, ...] = ()  # of the latest episodes
    exploration: dict = field(default_factory=dict)  # state of its generator
    env: dict = field(default_factory=dict)
    demonstrations: str = ""  # fingerprint of their dataset
    frozen: str = ""  # fingerprint of the policy that is steered


def write(trainer: "Trainer", folder: Path) -> None:
    """Write all that plays the policy and continues its training into an empty folder."""
    config, evaluated = results(trainer).values()
    checkpoint.save_json(folder / "config.json", trainer.policy_config | config)
    checkpoint.save_tensors(folder / "model.safetensors", trainer.agent.averaged_actor.state_dict())

    if trainer.frozen:
        (folder / FROZEN).mkdir()
        for name, content in trainer.frozen.files.items():
            (folder / FROZEN / name).write_bytes(content)

    state = folder / checkpoint.TRAINING_STATE
    state.mkdir()
    if isinstance(trainer.replay, FrameReplay):
        last = checkpoint.follow(trainer.checkpoints.folder / "last")
        previous = Path(os.path.realpath(last / checkpoint.TRAINING_STATE / FRAMES))
        ours = previous.is_relative_to(os.path.realpath(last))  # and no link out of it
        trainer.replay.save_frames(state / FRAMES, previous if ours else None)
    env_counters, env_arrays = trainer.env.state_dict()
    tensors = {
        "agent": trainer.agent.state_dict(),
        "env": {name: torch.from_numpy(array) for name, array in env_arrays.items()},
        "detours": {name: torch.from_numpy(array) for name, array in trainer.detours.state_dict().items()},
        "smoothing": {k: torch.from_numpy(array) for k, array in trainer.smoothing.state_dict().items()},
        "trainer": {"sampling": trainer.sampling.get_state()},
        "metrics": {name: value.clone() for name, value in trainer.metrics.items()},
    }
    counters = {
        "env_steps": trainer.env_steps,
        "updates": trainer.agent.updates,
        "replay_position": trainer.replay.position,
        **evaluated,
        "kept": trainer.checkpoints.kept,
        "returns": list(trainer.returns),
        "successes": list(trainer.successes),
        "exploration": trainer.exploration.bit_generator.state,
        "env": env_counters,
        "demonstrations": trainer.demonstrations.fingerprint if trainer.demonstrations else "",
        "frozen": trainer.frozen.fingerprint if trainer.frozen else "",
    }
    flat = {f"{part}.{name}": value for part, values in tensors.items() for name, value in values.items()}
    checkpoint.save_tensors(state / "tensors.safetensors", flat | trainer.replay.state_dict())
    checkpoint.save_json(state / COUNTERS, counters)


def results(trainer: "Trainer") -> dict[str, dict[str, Any]]:
    """What an evaluation changes in the files of a checkpoint."""
    evaluated, updates = trainer.evaluated, trainer.agent.updates
    return {
        "config.json": {
            "trained": {"env_steps": trainer.env_steps, "updates": updates, "evaluation": evaluated}
        },
        f"{checkpoint.TRAINING_STATE}/{COUNTERS}": {
            "evaluation": evaluated,
            "best": trainer.checkpoints.best,
        },
    }


def load(trainer: "Trainer", folder: Path) -> None:
    """Go on from a checkpoint as if the training had not stopped.

    Raises:
        UserError: it is not whole, or not of this configuration.
    """
    state = folder / checkpoint.TRAINING_STATE
    file = state / COUNTERS
    counters = checkpoint.read_state(Counters, untrusted.load_json(file), file, ("demonstrations", "frozen"))
    flat = untrusted.load_tensors(state / "tensors.safetensors")
    ours = trainer.demonstrations
    if counters.demonstrations != (ours.fingerprint if ours else ""):
        raise UserError(
            f"{ours.config.dataset if ours else file}: not the demonstrations that this run was trained on, "
            "or changed since: put them back, or start a new run with --no-resume"
        )
    if counters.frozen != (trainer.frozen.fingerprint if trainer.frozen else ""):
        raise UserError(
            f"{trainer.frozen.source if trainer.frozen else file}: not the policy that this run steers, or "
            "changed since: put it back, or start a new run with --no-resume"
        )
    before_durations = "window.open" in flat and "window.durations" not in flat
    if before_durations and trainer.env.decision_steps > 1:
        raise UserError(
            f"{state}: agent.gamma counted decisions then, and counts environment steps now: "
            "--no-resume starts a new run"
        )
    try:
        _check(trainer, counters, flat)
        trainer.agent.load_state_dict(part(flat, "agent"), counters.updates)
        trainer.replay.load_state_dict(flat, counters.replay_position)
        if isinstance(trainer.replay, FrameReplay):
            trainer.replay.load_frames(state / FRAMES)
        restore_generator(trainer.sampling, flat["trainer.sampling"], counters.updates)
        trainer.exploration.bit_generator.state = counters.exploration
        arrays = {name: tensor.numpy() for name, tensor in flat.items()}
        trainer.detours.load_state_dict(part(arrays, "detours"))
        trainer.smoothing.load_state_dict(part(arrays, "smoothing"))
        trainer.observations = trainer.env.load_state_dict(counters.env, part(arrays, "env"))
        trainer.env_steps, trainer.evaluated = counters.env_steps, counters.evaluation
        trainer.checkpoints.restore(counters.best, counters.kept)
        trainer.returns.extend(counters.returns)
        trainer.successes.extend(counters.successes)
        trainer.metrics = part(flat, "metrics")
    except (LookupError, AttributeError, RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{state}: not the state of such a training: {reason(error)}") from None


def _check(trainer: "Trainer", counters: Counters, flat: dict[str, torch.Tensor]) -> None:
    """Raise ValueError where parts of a state are none of this training, before any is used."""
    for name, values in flat.items():
        if not name.startswith("env.") and not values.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite")
    check_evaluation(trainer.evaluation, counters.evaluation, counters.best, "env_steps", counters.env_steps)
    if not all(success in (0, 1) for success in counters.successes):
        raise ValueError("successes must be true or false")
    of_env = counters.env.get("env_steps", counters.env_steps)
    if type(of_env) is not int or of_env != counters.env_steps:
        raise ValueError(f"env.env_steps must be {counters.env_steps}, as env_steps, got {show(of_env)}")
    if counters.updates > trainer.updates_due(counters.env_steps):
        raise ValueError(f"updates are too many for {counters.env_steps} env steps")
