"""Runs collect_dataset.py again and again without importing it again: one child process per line of
arguments.

Prints `ready` after the imports, then of each child its process id, `saved N` after each append, and
`ended CODE ALONE`, of which the second is 0 where processes of the child outlive it for longer than
`PATIENCE`. Blocks are short, so that there is much to interrupt. Workers are forked too, as a new Python
would spend most of its time on imports.
"""

import functools
import multiprocessing
import os
import select
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import collect_dataset
from recording.dataset import Dataset
from recording.workers import BlockRecorder

PATIENCE = 5.0  # seconds
append = Dataset.append


def append_and_tell(self, *args):
    append(self, *args)
    os.write(1, f"saved {self.episodes}\n".encode())  # in one piece, also where a kill comes


def run(argv: list[str]) -> None:
    Dataset.append = append_and_tell
    fork = multiprocessing.get_context("fork")
    multiprocessing.get_context = lambda _: fork
    code = 1
    try:
        code = 0 if collect_dataset.main(argv) else 1
    except SystemExit as stopped:
        code = stopped.code
    finally:
        os._exit(code)


collect_dataset.BlockRecorder = functools.partial(BlockRecorder, block_size=4)
with tempfile.TemporaryDirectory() as folder:  # what takes long the first time is then done for all children
    collect_dataset.main(
        f"--policy random --all --episodes 1 --observations pixels --root {folder}/data".split()
    )
print("ready", flush=True)
for line in sys.stdin:
    alive, held = os.pipe()  # the child and all that it forks hold it open
    child = os.fork()
    if not child:
        os.close(alive)
        run(line.split())
    os.close(held)
    print("started", child, flush=True)
    _, status = os.waitpid(child, 0)
    alone, _, _ = select.select([alive], [], [], PATIENCE)
    os.close(alive)
    print("ended", os.waitstatus_to_exitcode(status), len(alone), flush=True)
