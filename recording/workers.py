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
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from itertools import count

import cv2
import torch
from tqdm import tqdm

from common.device import choose_device
from common.errors import UserError
from envs.rollout import Policy
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
        env = RecordingEnv(self.block, self.recipe, policy.pixels)
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
    """Worker processes, each busy with a block of its own."""

    def __init__(self, player: Player, first: int, workers: int) -> None:
        self.player, self.number, self.workers = player, first, workers
        self.pool: ProcessPoolExecutor | None = None
        self.failures = 0

    def next_block(self) -> list[Recorded]:
        while True:
            try:
                block = self._result()
            except UserError:
                raise
            except BrokenProcessPool:
                self._begin_again("a worker died")
            except TimeoutError:
                self._begin_again("a worker hung")
            except Exception as error:
                self._begin_again(f"a worker failed ({type(error).__name__}: {error})")
            else:
                self.number, self.failures = self.number + 1, 0
                return block

    def close(self) -> None:
        if self.pool:
            processes = list(self.pool._processes.values())  # Python 3.14 has a `kill_workers`
            self.pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()  # what it is at would not be saved
            self.pool = None

    def _result(self) -> list[Recorded]:
        if not self.pool:
            self.pool = ProcessPoolExecutor(
                self.workers, multiprocessing.get_context("spawn"), _start, (self.player,)
            )
            self.ahead: deque[Future] = deque()
        while len(self.ahead) < 2 * self.workers:
            self.ahead.append(self.pool.submit(_play, self.number + len(self.ahead)))
        block = self.ahead[0].result(LONGEST)
        self.ahead.popleft()
        return block

    def _begin_again(self, reason: str) -> None:
        self.close()
        self.failures += 1
        if self.failures >= PATIENCE:
            raise UserError(
                f"{reason}, and so for {PATIENCE} times in a row, perhaps for want of memory; what was saved "
                "is intact: go on with --resume and fewer --workers"
            )
        tqdm.write(f"{reason}; its episodes are recorded again")


_player: Player
_policy: Policy


def _start(player: Player) -> None:
    """Make a new process ready to play."""
    global _player, _policy
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all, the parent decides
    threading.Thread(target=_follow_parent, daemon=True).start()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _player, _policy = player, player.open()


def _follow_parent() -> None:
    """A killed parent leaves workers that would wait for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _play(number: int) -> list[Recorded]:
    return _player.play(_policy, number)
