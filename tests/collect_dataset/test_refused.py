"""What the recorder refuses, in one sentence."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import collect_dataset
from envs.window import Window
from tests.collect_dataset.runs import REPOSITORY, SMALL, content
from tests.runs import last_of_each

pytestmark = pytest.mark.slow


def change_column(root, name, change):
    (path,) = Path(root, "data").rglob("*.parquet")
    table = pq.read_table(path)
    field, values = table.schema.field(name), change(table[name].to_pylist())
    changed = table.set_column(table.column_names.index(name), field, pa.array(values, field.type))
    pq.write_table(changed, path)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--root data", "data: exists; --resume adds to it, --overwrite replaces it"),
        (
            "--root data --noise 2",
            "data: exists; choose another --root, or replace it with --overwrite; --resume cannot add to it: "
            r"was recorded otherwise \(noise: 0.0 -> 2.0\)",
        ),
        (
            "--root other",
            "other: exists; choose another --root, .*it: was not recorded by collect_dataset.py",
        ),
        ("--root cut", "cut: exists; choose another --root, .*: data/chunk-000/file-000.parquet: damaged"),
        (
            "--root headless",
            "headless: exists; choose another --root, .*: damaged: meta/info.json is missing",
        ),
        ("--root headless --resume", "headless: damaged: meta/info.json is missing; take it from a copy"),
        ("--root data --resume --noise 2", "data was recorded otherwise .*noise: 0.0 -> 2.0"),
        (
            "--root data --resume --policy scripted",
            r"recorded otherwise .*policy: .* -> scripted; fingerprint: \w{8} -> scripted\)",
        ),
        ("--root data --resume --overwrite", "overwrite must be false with --resume"),
        ("--root data --resume --observations pixels", "observations: keypoints -> pixels"),
        ("--root no_dataset --resume", "no_dataset: not a LeRobot dataset"),
        (
            "--root no_dataset --overwrite",
            "no_dataset: not a LeRobot dataset, so --overwrite does not touch it",
        ),
        ("--root other --resume", "other: was not recorded by collect_dataset.py"),
        ("--root old --resume", "old: a dataset of version v2.1, not v3.0"),
        (
            "--root cut --resume",
            "file-000.parquet: damaged .*; take it from a copy, or record anew elsewhere",
        ),
        ("--root short --resume", "short: damaged: meta/info.json says 7 episodes"),
        ("--verify nowhere", "nowhere: no such folder"),
        ("--seed 99999999999999999999 --root new", "seed must be at most 4611686018427387904"),
        ("--repo-id pusht --root new", "repo_id must be of the form user/dataset, got pusht"),
        ("--verify data --resume", "resume must be left out with --verify"),
        ("--policy scripted --sampled --root new", "scripted: this policy has no distribution"),
        ("--verify cut", "damaged"),
        ("--root file", "file: not a LeRobot dataset"),
        ("--root no_dataset", "no_dataset: not a LeRobot dataset"),
        ("--root ''", "root must be a folder other than the one you are in"),
        ("--root fast --resume", "info.json: damaged .30 fps instead of 10"),
        ("--verify fast", "info.json: damaged .30 fps instead of 10"),
        ("--import-human file --noise 3 --root new", "noise must be left out with --import-human"),
        ("--import-human file --policy random --root new", "policy must be left out with --import-human"),
        ("--import-human file --episodes 3 --root new", "episodes must be left out with --import-human"),
        ("--import-human file --hindsight --all --root new", "all must be left out with --hindsight"),
        ("--hindsight --root new", "hindsight must be left out without --import-human"),
        ("--policy human --sampled --root new", "sampled must be left out with --policy human"),
        ("--push-to-hub me/pu\\ sht --root new", "push_to_hub must be of the form user/dataset"),
        ("--push-to-hub me/pusht --root new", "me/pusht: could not be uploaded .*nothing was recorded yet"),
        ("--policy nowhere", "nowhere: no such folder"),
        ("--root 'new [v1]'", r"new .v1.: LeRobot opens no dataset whose path has \[ in it"),
        ("--root 'a*/new'", r"LeRobot opens no dataset whose path has \* in it"),
        ("--root linked/new", "a::b/new: LeRobot opens no dataset whose path has :: in it"),
        (f"--root {'n' * 230}", "must have at most 200 bytes"),
        (
            "--root future --resume",
            "future: a dataset of version v3.1, not v3.0; it is newer",
        ),
        ("--verify future", "future: a dataset of version v3.1, not v3.0; it is newer"),
        ("--root odd --resume", "file-000.parquet: damaged .action is not finite everywhere"),
        ("--root shifted --resume", "file-000.parquet: damaged .episode_index in row"),
        (
            "--root high --resume",
            "stats.json: damaged .the q99 of action is not that of values between its min",
        ),
        ("--root low --resume", "stats.json: damaged .other min or max of action than its data"),
        ("--root negative --resume", "recording.json: 9 successes in -1 attempts"),
        ("--root again --resume", r"damaged .seed 70\d\d is not before next_seed"),
        ("--root early --resume", "early/meta/recording.json: next_seed 0 is before the first seed"),
        ("--task pendulum --root new", "Pendulum-v1 cannot be recorded yet"),
        ("--task pendulum --policy random --root new", "Pendulum-v1 cannot be recorded yet"),
        ("--task pusht_ --root new", "task must be one of .*pusht.* got 'pusht_'; did you mean pusht"),
        ("--task pusht --policy human --workers 2", "workers must be left out with --policy human"),
        (
            "--policy random --root new --give-up 32",
            "random: none of the last 32 episodes succeeded and stayed successful for 10 steps, "
            "after 0 saved to .*new; use a better",
        ),
        ("--policy human --root new --workers 2", "workers must be left out with --policy human"),
        ("--resolution 7 --root new", "resolution must be at least 16, got 7"),
        ("--noise -1 --root new", "noise must not be negative"),
        ("--noise 3 -1 --root new", "noise must not be negative"),
        ("--noise 1 2 3 --root new", "noise must be one number or 2, one for each axis of .*, got 3"),
        ("--noise --root new", "noise must be one number or 2, one for each axis of .*, got 0"),
        ("--video --observations keypoints --root new", "video must be false with --observations keypoints"),
        ("--import-human nowhere.npz --root new", "nowhere.npz: no such file"),
        (
            "--import-human file --root new",
            "file: cannot be read as demonstrations .it is neither an .npz file nor a zarr",
        ),
        ("--root file/data", "file/.*cannot be written"),
        ("--root data --resume --episodes 2 --push-to-hub me/pusht", "me/pusht: could not be uploaded"),
        ("--push-to-hub pusht --root new", "push_to_hub must be of the form user/dataset"),
        ("--episodes 0", "episodes must be at least 1, got 0"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(flags, message, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    damaged = "future", "odd", "shifted", "negative", "early", "again", "high", "low"
    for name in ("data", "other", "old", "cut", "short", "fast", "headless", *damaged):
        shutil.copytree(finished, name)
    Path("no_dataset").mkdir()
    Path("no_dataset/file").touch()
    Path("file").touch()
    Path("other/meta/recording.json").unlink()
    Path("headless/meta/info.json").unlink()
    info = json.loads(Path("old/meta/info.json").read_text())
    Path("old/meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    Path("short/meta/info.json").write_text(json.dumps(info | {"total_episodes": 7}))
    Path("fast/meta/info.json").write_text(json.dumps(info | {"fps": 30}))
    file = Path("cut/data/chunk-000/file-000.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    Path("a::b").mkdir()
    Path("linked").symlink_to("a::b")
    Path("future/meta/info.json").write_text(json.dumps(info | {"codebase_version": "v3.1"}))
    change_column("odd", "action", lambda values: [[np.nan, 0.0], *values[1:]])
    change_column("shifted", "episode_index", lambda values: [0] * len(values))
    for name, changes in (
        ("negative", {"attempts": -1, "successes": 9}),
        ("early", {"next_seed": 0}),
        ("again", {"next_seed": 7000}),
    ):
        notes = json.loads(Path(name, "meta/recording.json").read_text())
        Path(name, "meta/recording.json").write_text(json.dumps(notes | changes))
    for name, statistic, value in (("high", "q99", 1e308), ("low", "min", -1e9)):
        stats = json.loads(Path(name, "meta/stats.json").read_text())
        stats["action"][statistic][1] = value
        Path(name, "meta/stats.json").write_text(json.dumps(stats))
    before = content(Path("data"))
    same = SMALL.split() if "--root data" in flags else []  # so that only what is tested differs
    same += ["--observations", "keypoints"] if "--observations" not in flags and "video" not in flags else []
    with pytest.raises(SystemExit) as exit_:
        collect_dataset.main(last_of_each([*same, *shlex.split(flags)]))
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert re.search(message, line), line
    assert "Traceback" not in printed.err
    assert content(Path("data")) == before


def test_the_shell_sees_code_2_and_no_traceback(tmp_path):
    """Without a screen of any kind: left to choose, SDL opens a window that exists nowhere."""
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, str(REPOSITORY / "collect_dataset.py"), "--policy", "human"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith("error: ") and "needs a screen to open a window on, and there is none" in last
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("task", ["pusht", "car_racing"])
@pytest.mark.parametrize("driver", ["x11", "dummy", "offscreen"])
def test_no_screen_for_a_person(driver, task, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(Window, "act", lambda *_: pytest.fail("it waits for a person"))
    with pytest.raises(SystemExit) as exit_:
        collect_dataset.main(
            f"--task {task} --policy human --observations pixels --root {tmp_path / 'mine'}".split()
        )
    assert exit_.value.code == 2
    assert "needs a screen to open a window on, and there is none" in capsys.readouterr().err
