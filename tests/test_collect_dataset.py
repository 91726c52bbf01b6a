import errno
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partialmethod
from pathlib import Path

import av
import numpy as np
import pytest
from huggingface_hub import DatasetCard, HfApi
from lerobot.datasets import LeRobotDataset

import collect_dataset
from recording import files, pictures
from recording.human import Window
from recording.workers import Player
from tests.act.test_interop import lerobot_trains

REPOSITORY = Path(__file__).parents[1]
SMALL = "--resolution 32 --seed 7000"
LONGEST = 120.0  # seconds after which a recording of these tests hangs


def content(root):
    """Every file but those that tell when and by which commands they were made."""
    files = [p for p in root.rglob("*") if p.is_file() and p.name not in ("recording.json", "README.md")]
    return {str(p.relative_to(root)): p.read_bytes() for p in files if p.parent.name != "card"}


def notes(root):
    """How far it is, by which attempts."""
    saved = json.loads((root / "meta/recording.json").read_text())
    return {name: value for name, value in saved.items() if name != "commands"}


def record(root, flags):
    assert collect_dataset.main([*f"--root {root} {SMALL}".split(), *flags.split()])


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr(collect_dataset, "Player", lambda *args: Player(*args, block=4))


class Forks:
    """Children of tests/recording/forking.py, one at a time."""

    def __init__(self):
        script = REPOSITORY / "tests/recording/forking.py"
        command = [sys.executable, "-W", "ignore", str(script)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.saved = 0

    def run(self, flags, kill_after=LONGEST, interrupt_at=None):
        """Kill it so many seconds after its start, or press Ctrl-C when it has saved so much.

        Returns the exit code; `saved` is what it had reported by then.
        """
        print(flags, file=self.process.stdin, flush=True)
        for line in self.process.stdout:
            word, *values = line.split()
            if word == "started":
                child = int(values[0])
                timer = threading.Timer(kill_after, os.kill, (child, signal.SIGKILL))
                timer.start()
            elif word == "saved":
                self.saved = int(values[0])
                if self.saved == interrupt_at:
                    os.kill(child, signal.SIGINT)
            elif word == "ended":
                timer.cancel()
                code, alone = map(int, values)
                assert alone, "it left processes behind"
                return code
        raise RuntimeError("the process that forks is gone")


@pytest.fixture(scope="module")
def forks():
    forks = Forks()
    yield forks
    forks.process.stdin.close()
    forks.process.wait(timeout=30)


@pytest.mark.parametrize(("kind", "kills"), [("", 12), ("--video", 4), ("--workers 2", 4)])
def test_no_kill_loses_an_episode(kind, kills, forks, tmp_path):
    flags = f"{SMALL} --episodes 12 --noise 3 --hold 2 {kind} --root"
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
    flags = f"{SMALL} --episodes 24 --observations keypoints {workers} --root"
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
        assert forks.run(f"{SMALL} --episodes 6 --video {workers} --root {tmp_path / name}") == 0
    assert content(tmp_path / "one") == content(tmp_path / "two")
    (video,) = (tmp_path / "one/videos").rglob("*.mp4")
    assert video.read_bytes() == (tmp_path / "two" / video.relative_to(tmp_path / "one")).read_bytes()


def test_workers_change_nothing_and_may_die(tmp_path, short_blocks, capsys):
    record(tmp_path / "alone", "--episodes 24 --sampled")
    me, killed = os.getpid(), []

    def kill_one():
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline and not (tmp_path / "two").exists():
            time.sleep(0.01)
        children = Path(f"/proc/{me}/task/{me}/children").read_text().split()
        for child in children:
            if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
                os.kill(int(child), signal.SIGKILL)
                killed.append(child)
                return

    killer = threading.Thread(target=kill_one)
    killer.start()
    record(tmp_path / "two", "--episodes 24 --sampled --workers 2")
    killer.join()
    assert content(tmp_path / "two") == content(tmp_path / "alone")
    assert killed and "a worker died; its episodes are recorded again" in capsys.readouterr().out


def test_recorded_in_two_goes(tmp_path, short_blocks):
    record(tmp_path / "once", "--episodes 11")
    record(tmp_path / "twice", "--episodes 6")
    record(tmp_path / "twice", "--episodes 11 --resume")
    assert content(tmp_path / "once") == content(tmp_path / "twice")
    assert notes(tmp_path / "once") == notes(tmp_path / "twice")
    for name, runs in (("once", 1), ("twice", 2)):
        saved = json.loads((tmp_path / name / "meta/recording.json").read_text())
        assert len(saved["commands"]) == runs


def test_failures_are_kept_when_asked_for(tmp_path, short_blocks):
    record(tmp_path / "all", "--policy scripted --episodes 5 --all --observations keypoints")
    opened = LeRobotDataset("local/any", root=tmp_path / "all")
    rows = opened.meta.episodes
    assert list(rows["seed"]) == [7000, 7001, 7002, 7003, 7004]
    assert not all(rows["success"])
    for row in rows:
        successes = opened.hf_dataset.with_format("numpy")["next.success"][
            row["dataset_from_index"] : row["dataset_to_index"]
        ]
        assert bool(np.any(successes)) == row["success"]
    record(
        tmp_path / "good", "--policy scripted --episodes 2 --all --min-coverage 0.5 --observations keypoints"
    )
    good = LeRobotDataset("local/any", root=tmp_path / "good").meta.episodes
    assert min(good["max_coverage"]) >= 0.5


def test_without_a_root_it_goes_by_who_plays(tmp_path, short_blocks, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = f"{SMALL} --policy random --all --episodes 1 --observations keypoints"
    assert collect_dataset.main(flags.split())
    assert capsys.readouterr().out.startswith("data/pusht_random: 1 episodes, 300 frames")
    notes = json.loads(Path("data/pusht_random/meta/recording.json").read_text())
    assert notes["recipe"]["policy"] == "random"
    assert LeRobotDataset("local/pusht_random", root="data/pusht_random").num_frames == 300


def test_the_card_tells_what_is_there(tmp_path, short_blocks):
    record(tmp_path / "data", "--episodes 4 --observations keypoints")
    card = (tmp_path / "data/README.md").read_text()
    opened = LeRobotDataset("local/any", root=tmp_path / "data")
    actions = np.stack(list(opened.hf_dataset.with_format("numpy")["action"])).astype(np.float64)
    assert f"| frames | {opened.num_frames:,} at 10 Hz" in card
    shown = [actions[:, 0].min(), np.quantile(actions[:, 0], 0.01), np.median(actions[:, 0])]
    assert f"| x | {' | '.join(f'{value:.1f}' for value in shown)} |" in card
    assert "[More Information Needed]" not in card and "Recorded in the simulator" in card
    assert "put the T on its place in 4 of 4 episodes played: 100.0 %" in card
    assert "seeds 7000 to 7003" in card and "assets/" in card and str(REPOSITORY) not in card
    for name in re.findall(r"card/\w+\.\w+", card):
        assert (tmp_path / "data" / name).stat().st_size > 1000


def test_an_edited_card_stays_until_it_is_out_of_date(tmp_path, short_blocks):
    flags, card = "--observations keypoints --resume --episodes", tmp_path / "data/README.md"
    record(tmp_path / "data", f"{flags} 4")
    card.write_text("My words.")
    before = notes(tmp_path / "data"), content(tmp_path / "data")
    record(tmp_path / "data", f"{flags} 4")
    assert card.read_text() == "My words."
    assert (notes(tmp_path / "data"), content(tmp_path / "data")) == before
    record(tmp_path / "data", f"{flags} 5")
    assert "| episodes | 5, of which" in card.read_text() and "My words." not in card.read_text()
    card.unlink()
    record(tmp_path / "data", f"{flags} 5")
    assert "| episodes | 5, of which" in card.read_text()


def test_sampled_actions_are_of_the_seed(tmp_path, short_blocks):
    for name, sampled in (("one", "--sampled"), ("same", "--sampled"), ("other", "--device cpu")):
        record(tmp_path / name, f"--episodes 4 --observations keypoints {sampled}")
    assert content(tmp_path / "one") == content(tmp_path / "same")
    sampled, modes = (
        LeRobotDataset("local/any", root=tmp_path / name).hf_dataset.with_format("numpy")["action"][0]
        for name in ("one", "other")
    )
    assert (sampled != modes).all()


def test_the_card_links_to_where_the_dataset_will_be(tmp_path, short_blocks):
    for name, flags in (("mine", "--repo-id me/pusht"), ("nameless", "")):
        record(tmp_path / name, f"--episodes 1 --observations keypoints {flags}")
    link = "visualize_dataset?path="
    assert f"{link}me/pusht" in (tmp_path / "mine/README.md").read_text()
    assert link not in (tmp_path / "nameless/README.md").read_text()


def test_demonstrations_of_people(tmp_path, finished, capsys):
    """Episodes of ours, as such a file has them."""
    frames = LeRobotDataset("local/any", root=finished).hf_dataset.with_format("numpy")[:]
    states = np.stack(frames["sim.state"])
    ends = np.flatnonzero(frames["next.done"]) + 1
    people = tmp_path / "people.npz"
    np.savez(people, state=states[:, :5], action=np.stack(frames["action"]), episode_ends=ends)
    flags = f"--import-human {people} --root {tmp_path / 'data'} --resolution 32"
    for resume in ("", "--resume"):
        assert collect_dataset.main(f"{flags} {resume}".split())
        assert f"data: 2 episodes, {len(states)} frames" in capsys.readouterr().out
    assert collect_dataset.main(["--verify", str(tmp_path / "data")])
    assert "2 of 2 episodes replay within 1 px" in capsys.readouterr().out
    card = (tmp_path / "data/README.md").read_text()
    assert "Recorded by people for [Diffusion Policy]" in card and "| policy | people |" in card
    assert "Recorded in the simulator" not in card and "episodes played" not in card
    assert "| starts | as recorded |" in card


class Hub(dict):
    """What was uploaded to me/pusht, by path, in place of huggingface_hub's client."""

    def __init__(self, monkeypatch):
        for name in ("whoami", "create_repo", "upload_folder", "upload_file", "delete_tag", "create_tag"):
            monkeypatch.setattr(HfApi, name, partialmethod(getattr(Hub, name), self))
        monkeypatch.setattr(DatasetCard, "push_to_hub", lambda card, **_: self.update({"README.md": card}))
        self.tags = []

    def whoami(api, self):
        pass

    def create_repo(api, self, repo_id, repo_type, **_):
        assert (repo_id, repo_type) == ("me/pusht", "dataset")

    def upload_folder(api, self, repo_id, folder_path, **_):
        assert repo_id == "me/pusht"
        self.update({str(p.relative_to(folder_path)): p for p in folder_path.rglob("*") if p.is_file()})

    def upload_file(api, self, path_or_fileobj, path_in_repo, repo_id, repo_type):
        assert (repo_id, repo_type) == ("me/pusht", "dataset")
        self[path_in_repo] = path_or_fileobj

    def delete_tag(api, self, *_, **__):
        pass

    def create_tag(api, self, repo_id, tag, **_):
        self.tags.append(tag)


def test_it_is_pushed_with_its_own_card(tmp_path, short_blocks, monkeypatch, capsys):
    hub = Hub(monkeypatch)
    record(tmp_path / "data", "--episodes 1 --push-to-hub me/pusht")
    assert capsys.readouterr().out.splitlines()[-1] == "https://huggingface.co/datasets/me/pusht"
    card = (tmp_path / "data/README.md").read_text()
    assert hub["README.md"].read_text() == card and "visualize_dataset?path=me/pusht" in card
    assert "put the T on its place in 1 of 1 episodes played" in card
    files = [str(p.relative_to(tmp_path / "data")) for p in tmp_path.rglob("data/**/*") if p.is_file()]
    assert sorted(hub) == sorted(files) and hub.tags == ["v3.0"]


@pytest.mark.parametrize("observations", ["pixels", "pixels --video", "keypoints"])
def test_lerobot_train_takes_it_as_it_is(observations, tmp_path, short_blocks):
    record(tmp_path / "data", f"--episodes 2 --observations {observations}")
    checkpoint = lerobot_trains(tmp_path / "data", tmp_path / "run", steps=1)
    config = json.loads((checkpoint / "pretrained_model/config.json").read_text())
    seen = "observation.image" if observations.startswith("pixels") else "observation.environment_state"
    assert config["input_features"].keys() == {seen, "observation.state"}
    assert config["output_features"].keys() == {"action"}


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
        (files, "concatenate_video_files", "could not be written .*No space left.*--resume goes on"),
    ],
)
def test_no_room_for_videos(module, function, message, tmp_path, short_blocks, monkeypatch, capsys):
    flags = "--video --resume --episodes"
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


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished") / "data"
    record(root, "--episodes 2 --observations keypoints")
    return root


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--root data", "data: exists; --resume goes on with it, --overwrite replaces it"),
        ("--root data --noise 2", "data: exists; --overwrite replaces it, or choose another --root"),
        ("--root other", "other: exists; --overwrite replaces it, or choose another --root"),
        ("--root cut", "cut: exists; --overwrite replaces it, or choose another --root"),
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
        ("--root cut --resume", "file-000.parquet: damaged .*killed before it closes.*--overwrite"),
        ("--root short --resume", "short: damaged: meta/info.json tells of 7 episodes"),
        ("--verify nowhere", "nowhere: no such folder"),
        ("--seed 99999999999999999999 --root new", "seed must be at most 2.62"),
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
        ("--policy human --sampled --root new", "sampled must be left out with --policy human"),
        ("--push-to-hub me/pu\\ sht --root new", "push_to_hub must be of the form user/dataset"),
        ("--push-to-hub me/pusht --root new", "me/pusht: could not be uploaded .*nothing was recorded yet"),
        ("--policy nowhere", "nowhere: no such folder"),
        (
            "--policy random --root new --give-up 32",
            "random: none of the last 32 episodes succeeded, after 0 saved to .*new; use a better",
        ),
        ("--policy human --root new --workers 2", "workers must be left out with --policy human"),
        ("--resolution 7 --root new", "resolution must be from 16 to 1024 pixels, got 7"),
        ("--noise -1 --root new", "noise must not be negative"),
        ("--video --observations keypoints --root new", "video must be false with --observations keypoints"),
        ("--import-human nowhere.npz --root new", "nowhere.npz: no such file"),
        ("--import-human file --root new", "file: damaged, or no file of demonstrations"),
        ("--root file/data", "file/.*cannot be written"),
        ("--root data --resume --episodes 2 --push-to-hub me/pusht", "me/pusht: could not be uploaded"),
        ("--push-to-hub pusht --root new", "push_to_hub must be of the form user/dataset"),
        ("--episodes 0", "episodes must be at least 1, got 0"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(flags, message, finished, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "other", "old", "cut", "short", "fast"):
        shutil.copytree(finished, name)
    Path("no_dataset").mkdir()
    Path("no_dataset/file").touch()
    Path("file").touch()
    Path("other/meta/recording.json").unlink()
    info = json.loads(Path("old/meta/info.json").read_text())
    Path("old/meta/info.json").write_text(json.dumps(info | {"codebase_version": "v2.1"}))
    Path("short/meta/info.json").write_text(json.dumps(info | {"total_episodes": 7}))
    Path("fast/meta/info.json").write_text(json.dumps(info | {"fps": 30}))
    file = Path("cut/data/chunk-000/file-000.parquet")
    file.write_bytes(file.read_bytes()[:-20])
    before = content(Path("data"))
    same = SMALL.split() if "--root data" in flags else []  # so that only what is tested differs
    same += ["--observations", "keypoints"] if "--observations" not in flags and "video" not in flags else []
    with pytest.raises(SystemExit) as exit_:
        collect_dataset.main([*shlex.split(flags), *same])
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    (line,) = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert re.search(message, line), line
    assert "Traceback" not in printed.err
    assert content(Path("data")) == before


def test_no_screen_of_any_kind(tmp_path):
    """Left to choose, SDL opens a window that exists nowhere."""
    hidden = {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    command = [sys.executable, str(REPOSITORY / "collect_dataset.py"), "--policy", "human"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "needs a screen to open a window on, and there is none" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("driver", ["x11", "dummy", "offscreen"])
def test_no_screen_for_a_person(driver, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SDL_VIDEODRIVER", driver)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.setattr(Window, "act", lambda *_: pytest.fail("it waits for a person"))
    with pytest.raises(SystemExit) as exit_:
        collect_dataset.main(f"--policy human --root {tmp_path / 'mine'}".split())
    assert exit_.value.code == 2
    assert "needs a screen to open a window on, and there is none" in capsys.readouterr().err


def test_the_shell_sees_code_2_and_no_traceback(tmp_path):
    command = [sys.executable, str(REPOSITORY / "collect_dataset.py"), "--policy", "nowhere"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: nowhere: no such folder")
    assert "Traceback" not in done.stderr
