"""README's first code block, command by command in its order, with small numbers, where nothing is yet."""

import re
import shlex

import pytest

import collect_dataset
import evaluate
import train_act
import train_sac
from common.paths import REPOSITORY
from common.untrusted import load_json
from tests.runs import last_of_each, run_script

SMALLER = {  # flags that make a command short; what it does stays
    train_sac: "--total-env-steps 200 --training.start-steps 100 --training.eval-episodes 2 --threads 1",
    evaluate: "--episodes 2 --videos 1 --num-envs 2",
    collect_dataset: "--episodes 3",
    train_act: "--steps 3 --batch-size 2 --training.eval-every 0 --training.eval-episodes 1",
}
SCRIPTS = {f"{module.__name__}.py": module for module in SMALLER}


def commands() -> list[list[str]]:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```\w*\n(python .*?)```", text, re.DOTALL)
    assert block
    return [shlex.split(line, comments=True) for line in block[1].splitlines()]


@pytest.mark.slow
def test_each_command_works_after_the_one_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    played = []
    for _python, script, *flags in commands():
        module = SCRIPTS[script]
        module.main(last_of_each([*flags, *SMALLER[module].split()]))
        played.append(script)
    assert set(played) == set(SCRIPTS), "every script has its place in the block"
    assert (tmp_path / "logs/sac_pusht_seed1/evaluation_best.json").exists()
    assert len(list((tmp_path / "logs/sac_pusht_seed1/videos").glob("*.mp4"))) >= 1
    (stock,) = (tmp_path / "logs/act_pusht_seed1").glob("evaluation_*.json")
    assert load_json(stock)["env"] == "stock"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_runs_from_any_folder(script, tmp_path):
    done = run_script(REPOSITORY / script, "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(tmp_path.iterdir())
    assert f"usage: {REPOSITORY / script}" in done.stdout
