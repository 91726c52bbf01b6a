"""Policies too small to learn, and what they look at."""

import torch
from lerobot.configs.types import FeatureType, PolicyFeature

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
