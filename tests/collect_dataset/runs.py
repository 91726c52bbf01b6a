"""Small recordings, and what is left of them."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import collect_dataset
from policies import ASSETS
from tests.runs import last_of_each

REPOSITORY = Path(__file__).parents[2]
SMALL = "--observations pixels --resolution 32 --seed 7000 --hold 0"
FAST = f"--policy {ASSETS / 'sac_expert_fast'}"  # its episodes are the shorter ones
LONGEST = 120.0  # seconds after which a recording of these tests hangs


def content(root):
    """Every file but those that tell when and by which commands they were made."""
    files = [p for p in root.rglob("*") if p.is_file() and p.name not in ("recording.json", "README.md")]
    return {str(p.relative_to(root)): p.read_bytes() for p in files if p.parent.name != "card"}


def notes(root):
    """How far it is, by which attempts."""
    saved = json.loads((root / "meta/recording.json").read_text())
    return {name: value for name, value in saved.items() if name != "commands"}


def record(root, flags):
    assert collect_dataset.main(last_of_each(f"--root {root} {SMALL} {flags}".split()))


class Forks:
    """Children of tests/recording/forking.py, one at a time."""

    def __init__(self):
        script = REPOSITORY / "tests/recording/forking.py"
        command = [sys.executable, "-W", "ignore", str(script)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.saved = 0
        while (line := self.process.stdout.readline()) != "ready\n":  # else a test would time the imports
            assert line, "the process that forks is gone"

    def run(self, flags, kill_after=LONGEST, interrupt_at=None):
        """Kill it so many seconds after its start, or press Ctrl-C when it has saved so much.

        Returns the exit code; `saved` is what it had reported by then.
        """
        print(*last_of_each(flags.split()), file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            word, *values = line.split()
            if word == "started":
                child = int(values[0])
                timer = threading.Timer(kill_after, os.kill, (child, signal.SIGKILL))
                timer.start()
            elif word == "saved":
                self.saved = int(values[0])
                if self.saved == interrupt_at:
                    os.kill(child, signal.SIGINT)
            elif word == "ended":
                timer.cancel()
                code, alone = map(int, values)
                assert alone, "it left processes behind"
                return code
        raise RuntimeError("the process that forks is gone")
