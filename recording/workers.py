"""Blocks of seeds played by one process or by several, handed over in order.

The seeds are cut into blocks of fixed length, counted from the first seed of the dataset. A block is played
as one batch, so that the output of a network is the same to the last bit, whichever process plays it.

Workers only play. One process writes, in the order of the seeds: so there is one whole dataset at all times,
and it is equal to the byte for any number of workers. Shards joined by LeRobot's `aggregate_datasets` would
be neither: a kill would leave several parts, and the sizes of files and the rounding of statistics would
depend on the number of shards.
"""

import multiprocessing
import os
import threading
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection

import cv2
import torch
from tqdm import tqdm

from common.device import choose_device
from common.errors import UserError
from common.signals import blocking_stop_signals
from envs.interfaces import Policy
from policies import load_policy, task_of
from recording.episodes import RecordingEnv, record_episodes
from recording.schema import Recipe, RecordedEpisode

SEEDS_PER_BLOCK = 32
MAX_FAILURES = 3  # of workers, without a block in between
BLOCK_TIMEOUT_S = 1800.0  # the largest blocks take minutes; a worker that takes longer hangs


@dataclass(frozen=True)
class BlockRecorder:
    """Records blocks; cheap to send to another process, which opens the policy for itself."""

    recipe: Recipe
    policy: str  # its folder, or the name of one that needs none
    device: str = "cpu"
    block_size: int = SEEDS_PER_BLOCK

    def open_policy(self) -> Policy:
        """Raises UserError where there is none of the recipe's task."""
        task = task_of(self.policy, self.recipe.task)
        device, escapes = choose_device(self.device), not self.recipe.hold  # it would leave the goal
        return load_policy(self.policy, device, not self.recipe.sampled, task=task, escapes=escapes)

    def record(self, policy: Policy, number: int) -> list[RecordedEpisode]:
        """Play the seeds of block `number`."""
        first = self.recipe.seed + number * self.block_size
        env = RecordingEnv(self.block_size, self.recipe, policy.image_size)
        return record_episodes(env, policy, range(first, first + self.block_size))


def recorded_blocks(
    recorder: BlockRecorder, first: int, workers: int
) -> Generator[list[RecordedEpisode], None, None]:
    """The blocks from number `first` on, without end.

    Raises:
        UserError: the policy cannot be opened, or workers keep failing.
    """
    policy = recorder.open_policy()  # also for workers: so an error is reported once, and at once
    if workers == 1:
        for number in count(first):
            yield recorder.record(policy, number)
    with closing(WorkerPool(recorder, first, workers)) as pool:
        while True:
            yield pool.next_block()


class WorkerPool:
    """Worker processes that record the blocks from number `first` on, each of n every n-th."""

    def __init__(self, recorder: BlockRecorder, first: int, workers: int) -> None:
        self.recorder, self.number = recorder, first
        self.workers = [_Worker(recorder, first + i, workers) for i in range(workers)]
        self.failures = 0

    def next_block(self) -> list[RecordedEpisode]:
        while True:
            worker = self.workers[0]  # which has the next block
            try:
                block = worker.next_block()
            except _WorkerFailed as failure:
                self._replace(worker, str(failure))
                continue
            self.workers = [*self.workers[1:], worker]
            self.number, self.failures = self.number + 1, 0
            return block

    def close(self) -> None:
        for worker in self.workers:
            worker.close()

    def _replace(self, worker: "_Worker", reason: str) -> None:
        worker.close()
        self.failures += 1
        if self.failures >= MAX_FAILURES:
            raise UserError(
                f"{reason}, {MAX_FAILURES} times in a row, perhaps for lack of memory; what was saved is "
                "intact: use --resume and fewer --workers"
            )
        tqdm.write(f"{reason}; its episodes are recorded again")
        self.workers[0] = _Worker(self.recorder, self.number, len(self.workers))


class _WorkerFailed(Exception):
    """Its message says how."""


class _Worker:
    """A process that records blocks and sends each through a pipe of its own.

    It is at most a block ahead, because the pipe is full then. Python's pools share one pipe among all
    workers and wait forever for the rest of what a killed worker was writing.
    """

    def __init__(self, recorder: BlockRecorder, first: int, stride: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, its_end = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(its_end, recorder, first, stride), daemon=True)
        with blocking_stop_signals():
            resource_tracker.ensure_running()  # else it starts with the first worker, and unblocks signals
            with blocking_stop_signals():
                self.process.start()
        its_end.close()  # else the worker's death would not end the pipe

    def next_block(self) -> list[RecordedEpisode]:
        """Wait for it.

        Raises:
            UserError: from the worker.
            _WorkerFailed: the worker is dead, hangs or raised another error.
        """
        try:
            if not self.pipe.poll(BLOCK_TIMEOUT_S):
                raise _WorkerFailed("a worker hung")
            block = self.pipe.recv()
        except (EOFError, OSError):
            raise _WorkerFailed("a worker died") from None
        if isinstance(block, UserError):
            raise block
        if isinstance(block, Exception):
            raise _WorkerFailed(f"a worker failed ({type(block).__name__}: {block})")
        return block

    def close(self) -> None:
        self.process.kill()  # its running block would not be saved
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, recorder: BlockRecorder, first: int, stride: int) -> None:
    """Record in a new process, and send each block, or the error that ends it."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        policy = recorder.open_policy()
        for number in count(first, stride):
            pipe.send(recorder.record(policy, number))
    except Exception as error:
        pipe.send(error)


def _follow_parent() -> None:
    """Exit with the parent: a killed one would leave workers that finish their block, or hang."""
    parent = multiprocessing.parent_process()
    assert parent
    parent.join()
    os._exit(1)
