"""Which samples make which batch: LeRobot's order, on one process or several."""

import numpy as np
import torch
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler


class Sampler:
    """The batches of an epoch, a function of seed and epoch alone.

    Args:
        num_samples: of the dataset.
        batch_size: per process; an epoch's last batch may be smaller.
        seed: of the training.
        num_processes: that share the epoch; they take batches in turns.
        process_index: this one.
    """

    def __init__(
        self, num_samples: int, batch_size: int, seed: int, num_processes: int = 1, process_index: int = 0
    ) -> None:
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.seed = seed
        self.processes = num_processes, process_index

    def epoch(self, epoch: int, start: int = 0) -> list[torch.Tensor]:
        """The batches of an epoch, from its sample `start` on: indices (batch_size,) int64 each."""
        epoch_seed = np.random.SeedSequence([self.seed, epoch]).generate_state(1, np.uint64)[0]
        generator = torch.Generator().manual_seed(int(epoch_seed))
        order = torch.randperm(self.num_samples, generator=generator)
        done, odd = divmod(start, self.batch_size * self.processes[0])
        if odd:  # LeRobot stopped there, with another batch size or number of processes
            order, done = order[start:], 0
        if self.processes[0] == 1:
            return list(order.split(self.batch_size))[done:]
        batches = BatchSampler(order.tolist(), self.batch_size, drop_last=False)
        shard = BatchSamplerShard(batches, *self.processes)
        return [torch.tensor(batch) for batch in shard][done:]
