"""One seed for a run, split into named ones that do not disturb each other."""

import numpy as np


def split_seed(seed: int, *names: str) -> dict[str, int]:
    """Independent seeds by name; the same seed and names give the same ones."""
    return dict(zip(names, np.random.SeedSequence(seed).generate_state(len(names)).tolist(), strict=True))
