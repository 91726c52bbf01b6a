"""Policies too small to learn: what they look at, how they are saved and played."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies import make_pre_post_processors
from lerobot.policies.pretrained import PreTrainedPolicy

from act.opening import make_player
from envs.interfaces import RawObservation
from envs.pusht.task import PushT

TASK = PushT()
STATE, KEYPOINTS, IMAGE = (f"observation.{name}" for name in ("state", "environment_state", "image"))
CHUNK = 5
SIZES = {
    "dim_model": 16,
    "n_heads": 2,
    "dim_feedforward": 16,
    "n_encoder_layers": 1,
    "n_vae_encoder_layers": 1,
    "latent_dim": 4,
}
STATS = {
    name: {"mean": np.full(size, 250.0), "std": np.full(size, 100.0)}
    for name, size in ((STATE, 2), (KEYPOINTS, 16), ("action", 2))
}
STATS[IMAGE] = {"mean": np.full((3, 1, 1), 0.4), "std": np.full((3, 1, 1), 0.2)}


def features(side: int = 32) -> dict[str, PolicyFeature]:
    """Of a dataset that has everything, with pictures of so many pixels."""
    return {
        STATE: PolicyFeature(FeatureType.STATE, (2,)),
        KEYPOINTS: PolicyFeature(FeatureType.ENV, (16,)),
        IMAGE: PolicyFeature(FeatureType.VISUAL, (3, side, side)),
        "action": PolicyFeature(FeatureType.ACTION, (2,)),
    }


def make_batch(size: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Normalised samples, whose chunks end in more or less padding."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {STATE: (2,), KEYPOINTS: (16,), IMAGE: (3, 32, 32), "action": (CHUNK, 2)}
    tensors = {name: torch.randn(size, *shape, generator=generator) for name, shape in shapes.items()}
    lengths = torch.randint(1, CHUNK + 1, (size, 1), generator=generator)
    return tensors | {"action_is_pad": torch.arange(CHUNK) >= lengths}


def num_valid(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Numbers in the actions that are no padding."""
    return (~batch["action_is_pad"]).sum() * 2


def observations(num_slots: int = 3, seed: int = 0, side: int = 0) -> RawObservation:
    """Raw ones, drawn: of keypoints, or else of pictures of so many pixels."""
    rng = np.random.default_rng(seed)
    seen = {"agent_pos": rng.uniform(100, 400, (num_slots, 2))}
    if side:
        return seen | {"pixels": rng.integers(0, 256, (num_slots, side, side, 3), np.uint8)}
    return seen | {"keypoints": rng.uniform(100, 400, (num_slots, 8, 2))}


def processors_of(policy: PreTrainedPolicy) -> tuple[Any, Any]:
    return make_pre_post_processors(policy.config, dataset_stats=STATS)


def player_of(policy: PreTrainedPolicy) -> Any:
    return make_player(policy, processors_of(policy), TASK)


def save(policy: PreTrainedPolicy, folder: Path) -> Path:
    for part in (policy, *processors_of(policy)):
        part.save_pretrained(folder)
    return folder
