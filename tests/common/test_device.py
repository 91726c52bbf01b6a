import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


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
