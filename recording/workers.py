"""Blocks of seeds played by one process or by several, handed over in order.

The seeds are cut into blocks of fixed length, counted from the first seed of the dataset. A block is played
as one batch, so that it does not matter who plays it, and when, not even to the last bit of a network's
output.

Workers only play. One process writes, in the order of the seeds: so at every moment there is one whole
dataset, and it is equal to the byte for any number of workers. Shards joined by LeRobot's
`aggregate_datasets` would be neither: a kill would leave several halves, and how the files are filled and
what the statistics lose in rounding would depend on the number of shards.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection

import cv2
import torch
from tqdm import tqdm

from common.device import choose_device
from common.errors import UserError
from envs.interfaces import Policy
from policies import load_policy
from recording.play import RecordingEnv, play
from recording.schema import Recipe, Recorded

BLOCK = 32  # seeds
PATIENCE = 3  # failures of workers without a block in between
LONGEST = 1800.0  # seconds for a block, the largest of which take minutes; beyond it a worker hangs


@dataclass(frozen=True)
class Player:
    """Plays blocks; cheap to send to another process, where it opens the policy for itself."""

    recipe: Recipe
    policy: str  # its folder, or the name of one that needs none
    device: str = "cpu"
    block: int = BLOCK

    def open(self) -> Policy:
        return load_policy(self.policy, choose_device(self.device), not self.recipe.sampled)

    def play(self, policy: Policy, number: int) -> list[Recorded]:
        """Play the seeds of block `number`."""
        first = self.recipe.seed + number * self.block
        env = RecordingEnv(self.block, self.recipe, policy.image_size)
        return play(env, policy, range(first, first + self.block))


def blocks(player: Player, first: int, workers: int) -> Iterator[list[Recorded]]:
    """The blocks from number `first` on, without end.

    Raises:
        UserError: the policy cannot be opened, or workers keep failing.
    """
    policy = player.open()  # here first: what is wrong with it is told once, and at once
    if workers == 1:
        for number in count(first):
            yield player.play(policy, number)
    with closing(_Crew(player, first, workers)) as crew:
        while True:
            yield crew.next_block()


class _Crew:
    """Worker processes that play the blocks from number `first` on, each of n every n-th."""

    def __init__(self, player: Player, first: int, workers: int) -> None:
        self.player, self.number = player, first
        self.workers = [_Worker(player, first + i, workers) for i in range(workers)]
        self.failures = 0

    def next_block(self) -> list[Recorded]:
        while True:
            worker = self.workers[0]  # the others come later
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
        if self.failures >= PATIENCE:
            raise UserError(
                f"{reason}, and so for {PATIENCE} times in a row, perhaps for want of memory; what was saved "
                "is intact: go on with --resume and fewer --workers"
            )
        tqdm.write(f"{reason}; its episodes are recorded again")
        self.workers[0] = _Worker(self.player, self.number, len(self.workers))


class _WorkerFailed(Exception):
    """How, in words."""


class _Worker:
    """A process that plays blocks and hands each over through a pipe of its own.

    It is never more than a block ahead, for the pipe is full then. A pool shares one pipe among all, and
    waits for ever for the end of what a killed worker was about to write.
    """

    def __init__(self, player: Player, first: int, stride: int) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, its_end = context.Pipe(duplex=False)
        self.process = context.Process(target=_work, args=(its_end, player, first, stride), daemon=True)
        # Ctrl-C goes to all, and the parent decides: from its first line on this process knows of none.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        self.process.start()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        its_end.close()  # else its death would not end the pipe

    def next_block(self) -> list[Recorded]:
        """Wait for it.

        Raises:
            UserError: of the player.
            _WorkerFailed: the process does not play on.
        """
        try:
            if not self.pipe.poll(LONGEST):
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
        self.process.kill()  # what it is at would not be saved
        self.process.join()
        self.pipe.close()


def _work(pipe: Connection, player: Player, first: int, stride: int) -> None:
    """Play in a new process, and send each block, or the error that ends it."""
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    try:
        policy = player.open()
        for number in count(first, stride):
            pipe.send(player.play(policy, number))
    except Exception as error:
        pipe.send(error)


def _follow_parent() -> None:
    """A killed parent leaves workers that would play their block to its end, or hang on."""
    multiprocessing.parent_process().join()
    os._exit(1)
