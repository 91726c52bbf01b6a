"""Runs collect_dataset.py again and again without importing it again: one child process per line of
arguments.

Prints the child's process id, `saved N` after each append, and `ended CODE`. Blocks are short, so that there
is much to interrupt.
"""

import functools
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import collect_dataset
from recording.dataset import Dataset
from recording.workers import Player

append = Dataset.append


def append_and_tell(self, *args):
    append(self, *args)
    print("saved", self.episodes, flush=True)


def run(argv: list[str]) -> None:
    Dataset.append = append_and_tell
    collect_dataset.Player = functools.partial(Player, block=4)
    code = 1
    try:
        code = 0 if collect_dataset.main(argv) else 1
    finally:
        os._exit(code)


for line in sys.stdin:
    child = os.fork()
    if not child:
        run(line.split())
    print("started", child, flush=True)
    _, status = os.waitpid(child, 0)
    print("ended", status, flush=True)
