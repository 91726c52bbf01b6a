"""Kills, Ctrl-C, workers, full disks: what is saved stays, and a resume ends as if nothing had been."""

import errno
import json
import multiprocessing
import re
import signal
import time

import av
import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset

from recording import files, pictures
from recording.dataset import Dataset
from tests.collect_dataset.runs import FAST, LONGEST, SMALL, content, notes, record

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("kind", "kills"), [("", 12), ("--video", 4), ("--workers 2", 4)])
def test_no_kill_loses_an_episode(kind, kills, forks, tmp_path):
    flags = f"{SMALL} {FAST} --episodes 12 --noise 3 --hold 2 {kind} --root"
    begin = time.monotonic()
    assert forks.run(f"{flags} {tmp_path / 'whole'}") == 0
    longest, expected = time.monotonic() - begin, content(tmp_path / "whole")
    rng = np.random.default_rng()  # other moments in every run of the tests
    rounds = 0
    while kills > 0:  # those that come before anything was saved, or too late, are not counted
        assert rounds < 50, "hardly a kill came at a moment that counts"
        root = tmp_path / f"round_{rounds}"
        forks.saved, rounds = 0, rounds + 1
        for kill_after in (*rng.uniform(0.0, longest, 4), LONGEST):
            saved, begin = forks.saved, time.monotonic()
            code = forks.run(f"{flags} {root} --resume", kill_after=kill_after)
            assert code in (0, -signal.SIGKILL) and forks.saved >= saved
            if not root.exists():
                assert forks.saved == 0
                continue
            opened = LeRobotDataset("local/any", root=root, video_backend="pyav")
            assert opened.num_episodes in (forks.saved, forks.saved + 4)  # killed before it could tell
            forks.saved = opened.num_episodes
            assert len(opened.hf_dataset) == opened.num_frames
            assert opened[opened.num_frames - 1]["next.done"]
            if code == 0:
                longest = longest if saved else time.monotonic() - begin  # as busy as the machine is now
                break
            kills -= 1
        assert code == 0 and content(root) == expected
        assert notes(root) == notes(tmp_path / "whole")
        assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("workers", ["", "--workers 2"])
def test_ctrl_c_saves_and_says_how_to_go_on(workers, forks, tmp_path):
    flags = f"{SMALL} {FAST} --episodes 24 --observations keypoints {workers} --root"
    assert forks.run(f"{flags} {tmp_path / 'whole'}") == 0
    assert forks.run(f"{flags} {tmp_path / 'stopped'}", interrupt_at=4) == 1
    opened = LeRobotDataset("local/any", root=tmp_path / "stopped")
    assert 4 <= opened.num_episodes == forks.saved < 24
    assert f"| episodes | {forks.saved}, of which" in (tmp_path / "stopped/README.md").read_text()
    assert forks.run(f"{flags} {tmp_path / 'stopped'} --resume") == 0
    assert content(tmp_path / "stopped") == content(tmp_path / "whole")
    assert notes(tmp_path / "stopped") == notes(tmp_path / "whole")


def test_workers_change_no_video(forks, tmp_path):
    for name, workers in (("one", ""), ("two", "--workers 2")):
        assert forks.run(f"{SMALL} {FAST} --episodes 6 --video {workers} --root {tmp_path / name}") == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    (video,) = (tmp_path / "one/videos").rglob("*.mp4")
    assert video.read_bytes() == (tmp_path / "two" / video.relative_to(tmp_path / "one")).read_bytes()


def test_workers_change_nothing(tmp_path, short_blocks):
    """Each is a new Python, as in use; the other tests fork theirs."""
    record(tmp_path / "alone", f"{FAST} --episodes 8 --sampled")
    record(tmp_path / "two", f"{FAST} --episodes 8 --sampled --workers 2")
    assert content(tmp_path / "two") == content(tmp_path / "alone")


def test_workers_may_die(tmp_path, short_blocks, forked_workers, monkeypatch, capsys):
    """One is killed when the first of six blocks is saved; it has more to play than fits into its pipe."""
    record(tmp_path / "alone", f"{FAST} --episodes 24 --sampled")
    append, killed = Dataset.append, []

    def append_and_kill(self, *args):
        append(self, *args)
        if not killed:
            killed.extend(multiprocessing.active_children()[:1])
            killed[0].kill()

    monkeypatch.setattr(Dataset, "append", append_and_kill)
    record(tmp_path / "two", f"{FAST} --episodes 24 --sampled --workers 2")
    assert content(tmp_path / "two") == content(tmp_path / "alone")
    assert killed and "a worker died; its episodes are recorded again" in capsys.readouterr().out


def test_recorded_in_two_goes(tmp_path, short_blocks):
    record(tmp_path / "once", f"{FAST} --episodes 11")
    record(tmp_path / "twice", f"{FAST} --episodes 6")
    record(tmp_path / "twice", f"{FAST} --episodes 11 --resume")
    assert content(tmp_path / "once") == content(tmp_path / "twice")
    assert notes(tmp_path / "once") == notes(tmp_path / "twice")
    for name, runs in (("once", 1), ("twice", 2)):
        saved = json.loads((tmp_path / name / "meta/recording.json").read_text())
        assert len(saved["commands"]) == runs


def no_room(*_, **__):
    raise av.error.OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "function", "message"),
    [
        (
            pictures,
            "encode_video_frames",
            "no video could be made there .*No space left.*make room",
        ),
        (files, "concatenate_video_files", "cannot be written: .*No space left.*resume with --resume"),
    ],
)
def test_no_room_for_videos(module, function, message, tmp_path, short_blocks, monkeypatch, capsys):
    flags = f"{FAST} --video --resume --episodes"
    record(tmp_path / "whole", f"{flags} 6")
    record(tmp_path / "data", f"{flags} 4")
    before = content(tmp_path / "data")
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as exit_:
        patch.setattr(module, function, no_room)
        record(tmp_path / "data", f"{flags} 6")
    assert exit_.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert re.search(message, line), line
    assert content(tmp_path / "data") == before
    record(tmp_path / "data", f"{flags} 6")
    assert content(tmp_path / "data") == content(tmp_path / "whole")
