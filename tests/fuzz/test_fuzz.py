"""A few changed inputs, always the same. CI feeds 200 to all targets, `run.py` as many as one likes."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_input_ends_right_or_in_a_sentence():
    """In a process of its own, which is forked and so must not have computed anything yet."""
    run = Path(__file__).with_name("run.py")
    command = [sys.executable, run, "--inputs", "10", "--target", "sac_yaml", "sac_policy", "evaluate_flags"]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
