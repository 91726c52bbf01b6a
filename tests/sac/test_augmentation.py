import numpy as np
import torch

from envs.interfaces import Symmetry
from sac.augmentation import Mirror
from sac.replay_buffer import Batch


def test_half_of_a_batch_becomes_its_mirror_image():
    """Transition by transition."""
    order, signs = np.array([2, 0, 1, 3]), np.array([1, -1, 1, -1], np.float32)
    symmetry = Symmetry(order, signs, np.array([1, 0]), np.array([-1, 1], np.float32))
    rng = np.random.default_rng(0)
    sizes = (9, 4), (9, 2), 9, (9, 4), 9
    expected = Batch(*(torch.from_numpy(rng.normal(size=size).astype(np.float32)) for size in sizes))
    seen = Mirror(symmetry, "cpu")(Batch(*(tensor.clone() for tensor in expected)))
    for i in range(9):
        for was, now in zip(expected, seen, strict=True):
            was = was[i].tolist()
            if i < 4 and len(np.shape(was)) and len(was) == 4:
                was = [was[2], -was[0], was[1], -was[3]]
            elif i < 4 and len(np.shape(was)):
                was = [-was[1], was[0]]
            assert now[i].tolist() == was
