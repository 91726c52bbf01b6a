"""Tasks by name, and what is said of those that are not there."""

import re
import sys

import pytest

import envs
import evaluate
import train_sac
from common.config import from_dict
from common.errors import UserError
from envs import tasks
from envs.pendulum import Pendulum
from envs.pusht.task import PushT
from envs.tasks import names, task_class, with_task


def test_tasks_are_found_by_their_files():
    single = ("pendulum", "pusht_pixels", "visual_pendulum")
    several = ("car_racing", "pusht")
    files = {name: f"envs.{name}" for name in single}
    assert names() == files | {name: f"envs.{name}.task" for name in several}
    assert task_class("pusht") is PushT and task_class("pendulum") is Pendulum


def test_what_must_move_in_a_task_is_observed():
    for name in names():
        task = task_class(name)()
        assert (
            not task.must_move
            or task.must_move.observation in task.vector_env(1).single_observation_space.keys()
        )


def test_an_unknown_task_leads_to_the_nearest():
    with pytest.raises(
        UserError,
        match="one of car_racing, pendulum, pusht, pusht_pixels, visual_pendulum, got 'pusth'; .* pusht?",
    ):
        task_class("pusth")


def test_a_task_whose_package_is_not_installed_names_it(monkeypatch):
    for module in ("envs.pendulum", "envs.gym_task", "envs.gym_vector"):
        monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="task pendulum needs the package cv2, .*: pip install cv2"):
        task_class("pendulum")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("class Mine:\n    pass\n", r"mine\.py: no task, because it lacks the line TASK"),
        ("class Mine\n    pass\n\nTASK = Mine\n", r"mine\.py, line 1: expected ':'"),
        ("from envs.summary import RETRUN\n\nTASK = 1\n", "task mine cannot be imported: .*'RETRUN'"),
    ],
)
def test_a_task_with_a_mistake_in_its_file_is_told(text, said, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(text)
    monkeypatch.setattr(tasks, "__file__", str(tmp_path / "tasks.py"))
    monkeypatch.setattr("envs.__path__", [*envs.__path__, str(tmp_path)])
    with pytest.raises(UserError, match=said):
        task_class("mine")


@pytest.mark.slow
def test_a_task_is_imported_when_it_is_asked_for():
    """So that a task with packages of its own costs the others nothing."""
    import subprocess

    code = "import sys, train_sac; assert not {'envs.pendulum', 'envs.pusht.task'} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", code], cwd=tasks.Path(train_sac.__file__).parent, check=True)


def test_a_configuration_has_the_settings_of_its_task():
    config = from_dict(with_task(train_sac.Config, "pendulum"), {"env": {"reward_scale": 0.5}})
    assert config.env == Pendulum(reward_scale=0.5) and config.task == "pendulum"
    with pytest.raises(
        UserError, match=r"env\.curriculum; it is a setting of task pusht, and this is pendulum"
    ):
        from_dict(with_task(train_sac.Config, "pendulum"), {"env": {"curriculum": 0.5}})
    with pytest.raises(UserError, match=r"env\.miror; did you mean env\.mirror?"):
        from_dict(with_task(train_sac.Config, "pusht"), {"env": {"miror": True}})


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--policy assets/sac_expert --task pendulum", "was trained on task pusht, not pendulum"),
        ("--policy assets/sac_expert --task pndulum", "did you mean pendulum?"),
        (
            "--policy random --task=",
            "task must be one of car_racing, pendulum, pusht, pusht_pixels, visual_pendulum, got ''",
        ),
        ("--policy scripted --task pendulum", "scripted: Pendulum-v1 has no scripted policy"),
    ],
)
def test_a_policy_plays_its_own_task_only(flags, said, refused_by, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in refused_by(evaluate.main, flags.split())


def test_a_configuration_is_of_one_task(capsys):
    """`--task` chooses the YAML where there is no `--config`, and does not contradict one."""
    assert train_sac.read_config(["--task", "pendulum"]).env == Pendulum()
    assert train_sac.read_config(["--task", "pendulum"]).total_env_steps == 15_000
    with pytest.raises(UserError, match=r"sac_pendulum.yaml is an experiment on task pendulum, not pusht"):
        train_sac.read_config(["--config", "configs/sac_pendulum.yaml", "--task", "pusht"])


@pytest.mark.slow
def test_a_run_of_another_task_is_not_resumed(refused_by, tmp_path):
    name = ["--logs", str(tmp_path), "--run-name", "run", "--training.eval-every", "0"]
    short = ["--total-env-steps", "300", "--training.start-steps", "200", "--training.eval-episodes", "1"]
    train_sac.main(["--config", "configs/sac_pendulum.yaml", *name, *short])
    said = refused_by(train_sac.main, ["--config", "configs/sac_pusht.yaml", *name])
    assert "was trained on task pendulum, not pusht" in said


@pytest.mark.parametrize("flags", [[], ["--task", "pendulum"]], ids=["pusht", "pendulum"])
def test_help_says_of_every_setting_what_it_is(flags, capsys, monkeypatch):
    """Also of those whose class is made when the task is known."""
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        train_sac.main([*flags, "--help"])
    lines = [line.strip("│ ") for line in capsys.readouterr().out.splitlines()]
    options = re.split(r"\n(?=--\w)", "\n".join(lines))[1:]
    assert len(options) > 30
    for option in options:
        flag, *words = option.split("(default:")[0].split()
        assert [word for word in words if word.isalpha() and word.islower()], flag
