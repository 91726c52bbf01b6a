import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_numpy_does_not_complain_of_flushed_denormals():
    code = """
import numpy, torch
from common.device import flush_denormals
flush_denormals()
for kind in ("f4", "f8", "c8", "c16"):
    numpy.finfo(kind).smallest_subnormal, str(numpy.finfo(kind))
assert (torch.tensor([1e-39]) * 0.5).item() == 0.0, "this processor cannot flush them"
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, cwd=ROOT
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_script_without_a_number_of_threads_has_pytorchs_choice_after_one_with():
    """As in `make demo`, which runs several in one process."""
    code = """
import torch
own = torch.get_num_threads()
from common.device import use_threads
for count, expected in ((own + 1, own + 1), (0, own), (1, 1), (0, own)):
    use_threads(count)
    assert torch.get_num_threads() == expected
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
