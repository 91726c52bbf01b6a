"""Which checkpoint a path means, and what is said of a path that means none."""

import json
import os

import pytest

import policies
from common.errors import UserError
from envs.pusht.scripted import ScriptedPolicy
from policies import RandomPolicy, default_policy, load_policy
from tests.test_policies import CONFIG, write_checkpoint


def test_what_is_named_is_found_best_first_then_last(tmp_path):
    run = tmp_path / "run"
    write_checkpoint(run / "checkpoints/last", action_bound=10.0)
    assert load_policy(run).task.action_bound == 10.0
    write_checkpoint(run / "checkpoints/best", action_bound=20.0)
    assert load_policy(run).task.action_bound == 20.0
    assert load_policy(run / "checkpoints/last").task.action_bound == 10.0
    assert isinstance(load_policy("random"), RandomPolicy)
    assert isinstance(load_policy("scripted"), ScriptedPolicy)


def test_default_is_the_newest_run_then_the_expert(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(policies, "EXPERT", tmp_path / "assets/sac_expert")
    with pytest.raises(UserError, match="train_sac.py"):
        default_policy()
    write_checkpoint(tmp_path / "assets/sac_expert")
    assert str(default_policy()) == "assets/sac_expert"
    for name, age in (("old", 100), ("new", 10), ("older", 1000)):
        config = write_checkpoint(tmp_path / "logs" / name / "checkpoints/best") / "config.json"
        changed = config.stat().st_mtime - age
        os.utime(config, (changed, changed))
    assert str(default_policy()) == "logs/new/checkpoints/best"


def test_what_lies_elsewhere_in_the_repository_is_not_meant(tmp_path, monkeypatch):
    """Of relative paths only assets and configurations are the repository's."""
    monkeypatch.chdir(tmp_path)
    assert load_policy("assets/sac_expert").task.name == "PushT"
    with pytest.raises(UserError, match="^envs: no such folder"):
        load_policy("envs")


def test_a_wrong_path_leads_to_the_nearest_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("sac_pusht_seed1", "walker"):
        write_checkpoint(tmp_path / "logs" / name / "checkpoints/best")
    with pytest.raises(
        UserError, match="^logs/sac_puhst_seed1: no such folder; did you mean logs/sac_pusht_seed1?"
    ):
        load_policy("logs/sac_puhst_seed1")
    with pytest.raises(UserError, match="did you mean scripted?"):
        load_policy("scriptd")
    with pytest.raises(UserError, match="takes the folder it is in, logs/walker/checkpoints/best$"):
        load_policy("logs/walker/checkpoints/best/model.safetensors")
    (tmp_path / "logs/empty/checkpoints").mkdir(parents=True)
    with pytest.raises(UserError, match="^logs/empty: this run has saved no checkpoint yet"):
        load_policy("logs/empty")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "someone/act",
            "^someone/act: no such folder. One of the .* hf download someone/act --local-dir act$",
        ),
        ("https://huggingface.co/someone/act", "hf download someone/act --local-dir act$"),
        ("hf://someone/act", "hf download someone/act --local-dir act$"),
        ("a/b/c", "^a/b/c: no such folder$"),
        (
            "here/dp.ckpt",
            "^here/dp.ckpt: this is a checkpoint of PyTorch Lightning .* --policy takes a run or",
        ),
        ("here/sb3.zip", "this is an archive, as Stable-Baselines3 saves its models; --policy takes"),
        ("here/x.pt", "this is a pickle of PyTorch"),
        ("here/x.safetensors", "this is a file; --policy takes a run or checkpoint folder"),
        ("here", "^here/config.json: missing, and no checkpoints, so here is no policy of train_sac.py"),
        ("~nobody_at_all/x", "^~nobody_at_all/x: no user nobody_at_all$"),
        ("x" * 5000, "can be no path: File name too long$"),
        ("a\0b", "can be no path: embedded null byte$"),
    ],
)
def test_what_is_no_policy_of_ours_is_called_by_its_name(path, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    for name in ("dp.ckpt", "sb3.zip", "x.pt", "x.safetensors"):
        (tmp_path / "here" / name).touch()
    with pytest.raises(UserError, match=message):
        load_policy(path)


def test_a_home_may_be_in_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    write_checkpoint(tmp_path / "sac")
    assert load_policy("~/sac").task.name == "PushT"


@pytest.mark.parametrize("names", [("step_00000900", "step_00001000"), ("000900", "1000000")])
def test_a_run_copied_without_links_opens_at_its_newest_whole_checkpoint(names, tmp_path):
    run = tmp_path / "run"
    for name, bound in zip(names, (10.0, 20.0), strict=True):
        write_checkpoint(run / "checkpoints" / name, action_bound=bound)
    write_checkpoint(run / "checkpoints" / "step_00002000")
    (run / "checkpoints" / "step_00002000" / "model.safetensors").unlink()
    write_checkpoint(run / "checkpoints" / ".step_00003000.partial")
    (run / "checkpoints" / "last").symlink_to("gone")
    assert load_policy(run).task.action_bound == 20.0
    assert policies.find_checkpoint(run).name == names[1]


def test_the_default_of_a_task_is_a_run_of_that_task(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pendulum = {"algorithm": "sac", "task": "pendulum"}
    for age, (name, config) in enumerate([("damaged", None), ("pusht", CONFIG), ("pendulum", pendulum)]):
        file = write_checkpoint(tmp_path / "logs" / name / "checkpoints/best") / "config.json"
        file.write_text(json.dumps(config) if config else "{")
        os.utime(file, (10**9 - age, 10**9 - age))
    assert str(default_policy("pendulum")) == "logs/pendulum/checkpoints/best"
    assert str(default_policy("pusht")) == "logs/pusht/checkpoints/best"
    assert str(default_policy()) == "logs/damaged/checkpoints/best"  # the newest, whatever it is
    (tmp_path / "logs/pendulum/checkpoints/best/config.json").unlink()
    with pytest.raises(UserError, match="no run of task pendulum in .*train_sac.py --task pendulum$"):
        default_policy("pendulum")
