"""What happens to a batch between the replay buffer and the update, where a network sees numbers alone.

Where it sees pictures, `sac.frame_replay` mirrors and shifts while it gathers the batch: one pass less.
"""

import torch

from envs.interfaces import Symmetry
from sac.replay_buffer import Batch


class Mirror:
    """Replaces half of each batch by its mirror image: the task looks the same from there.

    Args:
        symmetry: of observations and actions.
        device: of the batches.
    """

    def __init__(self, symmetry: Symmetry, device: torch.device | str) -> None:
        self.symmetry = [torch.from_numpy(array).to(device) for array in symmetry]

    def __call__(self, batch: Batch) -> Batch:
        """The batch, changed in place."""
        observation_order, observation_signs, action_order, action_signs = self.symmetry
        count = len(batch.rewards) // 2
        for observations in (batch.observations, batch.next_observations):
            assert isinstance(observations, torch.Tensor)
            mirrored = observations[:count].index_select(1, observation_order)
            torch.mul(mirrored, observation_signs, out=observations[:count])
        mirrored = batch.actions[:count].index_select(1, action_order)
        torch.mul(mirrored, action_signs, out=batch.actions[:count])
        return batch
