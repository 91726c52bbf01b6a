"""One seed for a run, split into named ones that do not disturb each other."""

from collections.abc import Sequence

import numpy as np
import torch


def split_seed(seed: int | Sequence[int], *names: str) -> dict[str, int]:
    """Independent seeds by name; the same seed and names give the same ones."""
    return dict(zip(names, np.random.SeedSequence(seed).generate_state(len(names)).tolist(), strict=True))


def restore_generator(generator: torch.Generator, state: torch.Tensor, updates: int) -> None:
    """Go on from a saved state, or, if that is of another kind of device, from a seed not used so far."""
    if len(state) == len(generator.get_state()):
        generator.set_state(state)
    else:
        generator.manual_seed(generator.initial_seed() + updates)
