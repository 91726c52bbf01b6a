"""Opens an imitation policy, a folder as LeRobot saves it, to play."""

from pathlib import Path

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline

from act.checkpoint import check_format
from act.foreign import (
    check_complete,
    check_normalised,
    check_tokenizer,
    decode_policy_config,
    load_processors,
    opening,
)
from act.kinds import find_kind
from act.player import ChunkPlayer
from act.steerable import SteerablePlayer
from common.config import check_numbers, with_absent
from common.errors import UserError
from common.untrusted import load_json, load_tensors
from envs.interfaces import Task


def load_player(
    folder: Path,
    task: Task,
    device: torch.device | str = "cpu",
    n_action_steps: int | None = None,
    temporal_ensemble_coeff: float | None = None,
    sampled: bool = False,
    seed: int = 0,
) -> ChunkPlayer:
    """Open a folder as LeRobot saves a policy to it.

    Args:
        folder: with `config.json`, `model.safetensors` and the processors.
        task: that it is to play.
        device: of the network.
        n_action_steps, temporal_ensemble_coeff: see `ChunkPlayer`.
        sampled: draw the noise that chunks are made of; False: it is 0.
        seed: of the noise.

    Raises:
        UserError: it is not whole, not a policy for this task, or has no noise to draw.
    """
    policy, processors = _open_policy(folder, device)
    player = make_player(policy, processors, task, n_action_steps, temporal_ensemble_coeff, folder)
    player.act_once(folder)
    if isinstance(player, SteerablePlayer):
        player.sampled, player.rng = sampled, np.random.default_rng(seed)
    elif sampled:
        raise UserError(
            f"{folder}: this {player.kind.title} makes its chunks of no noise, so there is nothing to sample"
        )
    return player


def make_player(
    policy: PreTrainedPolicy,
    processors: tuple[PolicyProcessorPipeline, PolicyProcessorPipeline],
    task: Task,
    n_action_steps: int | None = None,
    temporal_ensemble_coeff: float | None = None,
    source: str | Path = "policy",
) -> ChunkPlayer:
    """A policy as a player: a `SteerablePlayer` where it has noise. The arguments are `ChunkPlayer`'s."""
    has_noise = find_kind(policy.config.type).noise_shape(policy.config) is not None
    player = SteerablePlayer if has_noise else ChunkPlayer
    return player(policy, *processors, task, n_action_steps, temporal_ensemble_coeff, source)


def _open_policy(
    folder: Path, device: torch.device | str
) -> tuple[PreTrainedPolicy, tuple[PolicyProcessorPipeline, PolicyProcessorPipeline]]:
    weights, settings = load_tensors(folder / "model.safetensors"), load_json(folder / "config.json")
    check_format(folder, weights)
    kind = find_kind(settings["type"])
    settings = with_absent(settings, kind.settings())
    check_complete(kind.settings, settings, f"{folder / 'config.json'}: ", kind.needed)
    check_numbers(kind.settings, settings, f"{folder / 'config.json'}: ")
    with opening(f"{folder}: this {kind.title} cannot be opened"):
        config = decode_policy_config(settings)
        if sum(weight.numel() for weight in weights.values()) < kind.least_size(config)[0]:
            raise ValueError("model.safetensors has fewer weights than config.json says")
        config.device = torch.device(device).type
        policy = kind.open_policy(config)
        policy.load_state_dict(weights)
        processors = load_processors(folder, config.device)
        check_tokenizer(config, bool(kind.language), processors[0], folder)
        check_normalised(config, processors, folder)
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise UserError(f"{folder}: some weights are not finite, so the training had diverged")
    if any((weight < 0).any() for name, weight in weights.items() if name.endswith(("_std", "_var"))):
        raise UserError(f"{folder}: some standard deviations or variances are negative")
    kind.speed_up(policy)
    return policy.to(device).eval(), processors
