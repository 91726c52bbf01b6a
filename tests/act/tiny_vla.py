"""A SmolVLA of random weights, on a vision-language model that is made here."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="SmolVLA needs transformers: make setup-vla")

from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy

from act.kinds import find_kind
from act.kinds.smolvla import PolicyConfig
from act.optimizer import OptimizerConfig
from act.vlm import CONFIG, describe
from common.checkpoint import save_json
from tests.act.tiny import CHUNK, IMAGE, STATE, features, make_batch

KIND = find_kind("smolvla")
TOKENS, MASK = KIND.language
SENTENCES = "push the T", "push the green T away"
SIDE = 16  # pixels


def make_vlm(folder: Path, layers: int = 2) -> Path:
    """Its description, smaller than `act.vlm`'s own."""
    files = describe(SENTENCES)
    width = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": layers}
    files[CONFIG]["text_config"] |= {
        **width,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
    }
    files[CONFIG]["vision_config"] |= {**width, "num_attention_heads": 2, "image_size": SIDE, "patch_size": 4}
    folder.mkdir()
    for name, content in files.items():
        save_json(folder / name, content)
    return folder


def settings(vlm: Path, **changes) -> PolicyConfig:
    all_trained = PolicyConfig(
        vlm_model_name=str(vlm),
        train_expert_only=False,
        freeze_vision_encoder=False,
        chunk_size=CHUNK,
        n_action_steps=2,
        max_state_dim=3,
        max_action_dim=4,
        resize_imgs_with_padding=(SIDE, SIDE),
        num_steps=3,
        inputs=(STATE, IMAGE),
    )
    return replace(all_trained, **changes)


def make(vlm: Path, seed: int = 1, saved: dict | None = None, **changes) -> SmolVLAPolicy:
    chosen = settings(vlm, **changes)
    config = KIND.make_config(chosen, features(), OptimizerConfig(), "cpu")
    return KIND.make_policy(config, chosen, seed, saved)[0].eval()


def samples(size: int = 6, seed: int = 0) -> dict[str, torch.Tensor]:
    """Normalised, the second half with a shorter sentence."""
    batch, generator = make_batch(size, seed), torch.Generator().manual_seed(seed)
    tokens = torch.randint(6, 11, (size, 4), generator=generator)
    mask = torch.ones(size, 4, dtype=torch.bool)
    mask[size // 2 :, 2:] = False
    seen = {STATE: batch[STATE][:, None], IMAGE: torch.rand(size, 1, 3, 32, 32, generator=generator)}
    rest = {name: batch[name] for name in ("action", "action_is_pad")}
    return seen | rest | dict(zip(KIND.language, (tokens, mask), strict=True))


def noise(num_slots=3, seed=0):
    return np.random.default_rng(seed).standard_normal((num_slots, CHUNK, 4))
