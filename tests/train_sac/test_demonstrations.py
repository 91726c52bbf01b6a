"""Demonstrations first, from the command line: stopped and resumed, and refused."""

import json
import shutil
import signal
from itertools import count

import pytest

import collect_dataset
from policies import ASSETS
from sac.agent import SAC
from tests.runs import metrics
from tests.train_sac.runs import assert_same_run, contents

pytestmark = pytest.mark.slow

SHORT = ("--total-env-steps", "600", "--training.eval-every", "200")
OFFLINE = ("--offline.steps", "30", "--offline.until", "400", "--offline.imitation", "0.5", *SHORT)


@pytest.fixture(scope="session")
def recorded(tmp_path_factory):
    root = tmp_path_factory.mktemp("data") / "experts"
    collect_dataset.main(
        ["--policy", str(ASSETS / "sac_expert_fast"), "--root", str(root), "--episodes", "2", "--hold", "1"]
    )
    return root


@pytest.fixture
def demonstrations(recorded, tmp_path):
    return shutil.copytree(recorded, tmp_path / "demonstrations")


def test_stopped_and_resumed_it_is_the_same_and_another_dataset_is_refused(
    demonstrations, train, refused, tmp_path, monkeypatch, capfd
):
    flags = ("--offline.dataset", str(demonstrations), *OFFLINE)
    train(*flags, "--run-name", "whole")
    whole = tmp_path / "whole"
    assert "2 episodes" in capfd.readouterr().out
    assert contents(whole)["counters"]["updates"] == 30 + 49  # 0.1 per step from 100 to 598
    rows = metrics(whole)
    assert [float(row["step"]) for row in rows if row.get("Eval/success_rate")] == [0, 200, 400, 600]
    assert not [name for name in contents(whole)["tensors"] if "demonstration" in name]

    update, updates = SAC.update, count(1)

    def update_and_be_stopped(agent, batch, imitation):
        if (number := next(updates)) in (10, 20, 60):
            signal.raise_signal(signal.SIGTERM if number == 60 else signal.SIGINT)
        return update(agent, batch, imitation)

    monkeypatch.setattr(SAC, "update", update_and_be_stopped)
    for at in ("offline_00000010", "offline_00000020", "step_"):
        train(*flags)
        assert (tmp_path / "run/checkpoints/last").readlink().name.startswith(at)
        if at == "step_":
            info = demonstrations / "meta/info.json"
            text = info.read_text()
            info.write_text(text + " ")
            assert "not the demonstrations that this run was trained on, or changed" in refused(*flags)
            demonstrations.rename(tmp_path / "away")
            assert refused(*flags).startswith(f"{demonstrations}: no such folder")
            (tmp_path / "away").rename(demonstrations)
            info.write_text(text)
    train(*flags)
    assert next(updates) == 80
    assert_same_run(tmp_path / "run", whole)


BAD_FLAGS = {
    "share": ("--offline.share 1.5", "offline.share must be between 0 and 1, got 1.5"),
    "a share alone": ("--offline.share 0.2", "offline.share must be left out without offline.dataset"),
    "steps alone": ("--offline.steps 5", "offline.steps must be 0 without offline.dataset, got 5"),
    "no path": (f"--offline.dataset {'9' * 400}", "can be no path: File name too long"),
    "no dataset": ("--offline.dataset nowhere", "nowhere: no such folder"),
}


@pytest.mark.parametrize(("flags", "words"), BAD_FLAGS.values(), ids=BAD_FLAGS)
def test_bad_flags(refused, tmp_path, flags, words):
    assert words in refused(*flags.split())
    assert not (tmp_path / "run" / "config.yaml").exists()


def altered(root, file, change):
    content = json.loads((root / file).read_text())
    change(content)
    (root / file).write_text(json.dumps(content))


def of_three_numbers(name):
    def change(content):
        if "features" in content:
            content["features"][name]["shape"] = [3]
        else:
            content[name].update(dict.fromkeys(("mean", "std", "min", "max"), [0.0] * 3))

    return change


INFO, OURS = "meta/info.json", "meta/recording.json"
BAD_DATASETS = {
    "another task": (
        OURS,
        lambda notes: notes["recipe"].update(task="pendulum"),
        "is of task pendulum, not of",
    ),
    "no recipe": (OURS, lambda notes: notes.update(recipe="{}"), "recipe.task must be a name, got None"),
    "task is a list": (OURS, lambda notes: notes["recipe"].update(task=["x"]), "must be a name, got ['x']"),
    "empty": (INFO, lambda info: info.update(total_episodes=0, total_frames=0), "this dataset is empty"),
    "frame rate": (INFO, lambda info: info.update(fps=11), "11 frames per second, PushT has 10"),
    "action size": (INFO, of_three_numbers("action"), "must be of shape (2,), PushT's, got (3,)"),
    "state size": (
        INFO,
        of_three_numbers("observation.state"),
        "its observation.state must be of shape (2,), as agent_pos of PushT, got (3,)",
    ),
    "another action's statistics": (
        "meta/stats.json",
        lambda stats: stats["action"].update(min=[900.0] * 2, max=[1e3] * 2, mean=[950.0] * 2, std=[9.0] * 2),
        "not of these values: action is not between its min and max",
    ),
    "no rewards": (INFO, lambda info: info["features"].pop("next.reward"), "it has no next.reward"),
    "no states": (
        INFO,
        lambda info: info["features"].pop("sim.state"),
        "it has no block_pose, which PushT needs with these settings; collect_dataset.py records it",
    ),
}


@pytest.mark.parametrize(("file", "change", "words"), BAD_DATASETS.values(), ids=BAD_DATASETS)
def test_bad_datasets(demonstrations, refused, file, change, words):
    altered(demonstrations, file, change)
    if "got (3,)" in words:
        altered(demonstrations, "meta/stats.json", change)
    assert words in refused("--offline.dataset", str(demonstrations))
