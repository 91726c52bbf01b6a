"""docs/add_a_task.md, followed to the letter in a copy of the repository."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from common.paths import REPOSITORY
from tests.runs import last_of_each, run_script

PAGE = REPOSITORY / "docs" / "add_a_task.md"
BLOCK = re.compile(r"(?:`(?P<file>[\w/.]+)`:\n\n)?```(?P<language>\w+)\n(?P<text>.*?)```", re.DOTALL)
SMALLER = {  # flags that make a step short; what it does stays
    "evaluate.py": "--episodes 1 --videos 1",
    "train_sac.py": "--total-env-steps 1200 --training.start-steps 400 --training.eval-every 0 "
    "--training.eval-episodes 2",
}


@pytest.mark.slow
def test_following_the_page_trains_a_policy(tmp_path):
    repository = tmp_path / "repository"
    # With what Numba has compiled, which belongs to the times of the files.
    ignored = shutil.ignore_patterns(".*", "logs", "data", "tests")
    shutil.copytree(REPOSITORY, repository, ignore=ignored)
    blocks = list(BLOCK.finditer(PAGE.read_text(encoding="utf-8")))
    files = [block["file"] for block in blocks if block["file"]]
    assert files == ["envs/mountain_car.py", "configs/sac_mountain_car.yaml"]

    printed = []
    for block in blocks:
        if block["file"]:
            assert not (repository / block["file"]).exists(), "the page begins with an empty file"
            (repository / block["file"]).write_text(block["text"], encoding="utf-8")
        elif block["language"] == "bash":
            python, *words = shlex.split(block["text"])
            assert python == "python"
            if words[0] == "-c":
                done = subprocess.run(
                    [sys.executable, *words], cwd=repository, capture_output=True, text=True
                )
            else:
                flags = last_of_each([*words[1:], *SMALLER[words[0]].split()])
                done = run_script(repository / words[0], *flags, cwd=repository)
            assert done.returncode == 0, done.stderr
            printed.append(done.stdout)

    looked, _, trained, evaluated = printed
    assert "999" in looked and "Box(-1.0, 1.0, (1,), float32)" in looked
    assert "8 x MountainCarContinuous-v0" in trained and "success rate" in trained
    assert "1 of MountainCarContinuous-v0, seeds 100000 to 100000" in evaluated
    run = repository / "logs/sac_mountain_car_seed1"
    numbers = json.loads((run / "evaluation_best.json").read_text())
    assert numbers["task"] == "MountainCarContinuous-v0" and numbers["n_action_steps"] == 4
    assert len(list((run / "videos").glob("*.mp4"))) >= 1


def test_every_file_that_the_page_links_to_exists():
    for target in re.findall(r"\]\((\.\./[^)]+)\)", PAGE.read_text(encoding="utf-8")):
        assert (Path(PAGE.parent) / target).exists(), target
