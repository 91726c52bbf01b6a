"""A few changed inputs, always the same. CI feeds 200 to all targets, `run.py` as many as one likes."""

from pathlib import Path

import pytest

from common.paths import REPOSITORY
from tests.runs import run_script


@pytest.mark.slow
def test_every_input_ends_right_or_in_a_sentence():
    flags = "--inputs 10 --target sac_yaml sac_policy evaluate_flags".split()
    ended = run_script(Path(__file__).with_name("run.py"), *flags, cwd=REPOSITORY)
    assert ended.returncode == 0, ended.stdout + ended.stderr
