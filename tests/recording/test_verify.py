import json
import os
import re
import shutil
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imageio.v3 import imread

from common.errors import UserError
from envs.pusht.vector import StockPushTVectorEnv
from recording.checks import open_recording
from recording.dataset import Dataset, Notes
from recording.pictures import encode_mp4, encode_png
from recording.verify import verify

pytestmark = pytest.mark.slow


@pytest.fixture
def dataset(block, new_dataset):
    dataset = new_dataset()
    dataset.append(block[:3], dataset.notes)
    return dataset


def doctor(dataset, column, row, change, folder="data"):
    """Change one value of the stored frames, or of the episodes."""
    (path,) = (dataset.root / folder).rglob("*.parquet")
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = change(values[row])
    index = table.column_names.index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(index, field, pa.array(values, field.type)), path)


def one_pixel(picture):
    pixels = imread(picture["bytes"]).copy()
    pixels[3, 4, 1] ^= 1
    return picture | {"bytes": encode_png(pixels)}


def differing(dataset, capsys):
    """What `verify` says of the one episode that differs."""
    assert not verify(dataset)
    printed = capsys.readouterr().out
    assert f"{dataset.episodes - 1} of {dataset.episodes} episodes replay" in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("episode")]
    return line


def test_what_was_recorded_replays(dataset, capsys):
    assert verify(dataset)
    assert "3 of 3 episodes replay exactly in gym_pusht/PushT-v0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings",
    [{"noise": 8.0, "hold": 3}, {"noise": (8.0, 2.0)}, {"observations": "keypoints"}, {"video": True}],
)
def test_so_do_all_kinds(settings, record_block, new_dataset):
    dataset = new_dataset(**settings)
    dataset.append(record_block(**settings), dataset.notes)
    assert verify(open_recording(dataset.root))


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("action", lambda v: [v[0] + 30, v[1]], r"state differs by up to .* px, first in frame 5"),
        (
            "observation.state",
            lambda v: [v[0], v[1] + 0.5],
            r"state differs by up to 0.5 px, first in frame 4",
        ),
        (
            "sim.state",
            lambda v: [*v[:4], v[4] + 0.01, *v[5:]],
            r"state differs by up to 1 px, first in frame 4",
        ),
        ("next.reward", lambda v: v + 0.25, r"next.reward by up to 0.25, first in frame 4"),
        ("next.success", lambda v: not v, r"next.success in 1 frames, first in frame 4"),
        ("next.done", lambda v: not v, r"next.done in 1 frames, first in frame 4"),
        ("timestamp", lambda v: v + 0.01, r"timestamp in 1 frames, first in frame 4"),
        ("frame_index", lambda v: v + 1, r"frame_index in 1 frames, first in frame 4"),
        ("index", lambda v: v + 1, r" index in 1 frames, first in frame 4"),
        ("episode_index", lambda v: v + 1, r"episode_index in 1 frames, first in frame 4"),
        ("task_index", lambda v: v + 1, r"task_index in 1 frames, first in frame 4"),
        ("action", lambda v: [np.nan, v[1]], r"action by up to nan px .*, first in frame 4"),
        ("action", lambda v: [v[0], np.inf], r"action by up to inf px .*, first in frame 4"),
        ("observation.state", lambda v: [np.nan, v[1]], r"state differs by up to nan px, first in frame 4"),
        ("sim.state", lambda v: [*v[:6], np.nan], r"state differs by up to nan px, first in frame 4"),
        ("next.reward", lambda v: np.nan, r"next.reward by up to nan, first in frame 4"),
        ("timestamp", lambda v: np.nan, r"timestamp in 1 frames, first in frame 4"),
        (
            "observation.image",
            lambda v: v | {"bytes": encode_png(np.zeros((32, 32, 3), np.uint8))},
            "picture by up to",
        ),
        ("observation.image", one_pixel, r"picture by up to 0.000326 of 255 on average, first in frame 4"),
    ],
)
def test_a_changed_value_is_found(column, change, message, dataset, block, capsys):
    doctor(dataset, column, len(block[0]) + 4, change)
    line = differing(dataset, capsys)
    assert line.startswith("episode 1 (seed 7001): ")
    assert re.search(message, line)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("success", lambda v: not v, "success in meta/episodes"),
        ("max_coverage", lambda v: v - 0.01, "max_coverage in meta/episodes"),
        ("max_coverage", lambda v: np.nan, "max_coverage in meta/episodes"),
        ("seed", lambda v: v + 1, "state differs by up to"),
        ("stats/action/mean", lambda v: [v[0] + 0.1, v[1]], "stats of action in meta/episodes"),
        ("stats/action/std", lambda v: [v[0], 2 * v[1]], "stats of action in meta/episodes"),
        ("stats/action/q99", lambda v: [np.nan, v[1]], "stats of action in meta/episodes"),
        ("stats/next.done/count", lambda v: [v[0] + 1], "stats of next.done in meta/episodes"),
        ("stats/timestamp/min", lambda v: [v[0] - 0.01], "stats of timestamp in meta/episodes"),
        ("stats/index/max", lambda v: [v[0] + 1], "stats of index in meta/episodes"),
        (
            "stats/observation.image/mean",
            lambda v: [v[0], v[1], [[v[2][0][0] + 0.01]]],
            "stats of observation.image in meta/episodes",
        ),
    ],
)
def test_a_changed_episode_is_found(column, change, message, dataset, capsys):
    doctor(dataset, column, 1, change, "meta/episodes")
    line = differing(dataset, capsys)
    assert line.startswith("episode 1 (seed ") and message in line


@pytest.mark.parametrize("statistic", ["mean", "std", "min", "q01"])
def test_changed_totals_are_found(statistic, dataset, capsys):
    stats = json.loads((dataset.root / "meta/stats.json").read_text())
    stats["action"][statistic][1] += 0.1
    (dataset.root / "meta/stats.json").write_text(json.dumps(stats))
    assert not verify(open_recording(dataset.root))
    printed = capsys.readouterr().out
    assert "meta/stats.json: not those of the episodes: action\n" in printed
    assert "3 of 3 episodes replay exactly" in printed


def test_changed_statistics_of_a_film_are_found(record_block, new_dataset, capsys):
    dataset = new_dataset(video=True)
    dataset.append(record_block(video=True)[:2], dataset.notes)
    change = lambda v: [[[v[0][0][0] + 0.01]], *v[1:]]  # noqa: E731
    doctor(dataset, "stats/observation.image/mean", 1, change, "meta/episodes")
    assert "stats of observation.image in meta/episodes" in differing(dataset, capsys)


def test_changed_labels_of_disturbed_actions_are_found(record_block, new_dataset, capsys):
    """The simulator got `sim.action`, which is as it was."""
    dataset = new_dataset(noise=8.0, hold=3)
    dataset.append(record_block(noise=8.0, hold=3)[:2], dataset.notes)
    doctor(dataset, "action", 4, lambda v: [v[0] + 0.5, v[1]])
    assert (
        "episode 0 (seed 7000): action by up to 0.5 px from what was played, first in frame 4"
        in differing(dataset, capsys)
    )


def test_the_film_of_another_episode_is_found(record_block, new_dataset, capsys):
    dataset, episodes = new_dataset(video=True), record_block(video=True)
    episodes.sort(key=len)
    episodes[0].video = encode_mp4(episodes[1].pictures[: len(episodes[0])], fps=10)
    dataset.append(episodes, dataset.notes)
    assert "picture by up to" in differing(dataset, capsys)


def test_ctrl_c_is_no_difference(dataset, monkeypatch):
    """Also in a callback of the physics, where Python would swallow the exception."""
    step = StockPushTVectorEnv.step

    def interrupted(self, *args):
        signal.raise_signal(signal.SIGINT)
        monkeypatch.setattr(StockPushTVectorEnv, "step", step)
        return step(self, *args)

    monkeypatch.setattr(StockPushTVectorEnv, "step", interrupted)
    with pytest.raises(UserError, match="interrupted; so far 1 of 1 episodes replay exactly"):
        verify(dataset)


def cut(path, share=0.5):
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])


def flip(path):
    """Damage what lies in the middle: a page of data, not the footer that tells of it."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = bytes(255 - value for value in content[middle : middle + 200])
    path.write_bytes(content)


def edit(**changes):
    return lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def without(column):
    return lambda path: pq.write_table(pq.read_table(path).drop_columns([column]), path)


FRAMES, EPISODES = "data/chunk-000/file-000.parquet", "meta/episodes/chunk-000/file-000.parquet"
VIDEO = "videos/observation.image/chunk-000/file-000.mp4"


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("meta/info.json", edit(fps=30), "info.json: damaged .30 fps instead of 10"),
        ("meta/info.json", edit(features={}), "info.json: damaged .other features than those of"),
        ("meta/info.json", edit(total_frames="many"), "info.json: damaged .total_frames is 'many'"),
        ("meta/info.json", cut, "info.json: damaged"),
        ("meta/stats.json", Path.unlink, "stats.json: missing"),
        ("meta/stats.json", cut, "stats.json: damaged"),
        ("meta/stats.json", lambda path: path.write_text("[]"), "stats.json: damaged"),
        ("meta/stats.json", edit(action={"count": [7]}), "stats.json: damaged .other counts"),
        ("meta/tasks.parquet", Path.unlink, "tasks.parquet: missing"),
        (
            "meta/recording.json",
            edit(next_seed="soon"),
            "recording.json: next_seed: expected int, got 'soon'",
        ),
        ("meta/recording.json", lambda path: path.write_text("{}"), "recording.json: not written by this"),
        ("meta/recording.json", lambda path: path.write_text("[]"), "recording.json: damaged"),
        (FRAMES, Path.unlink, "data holds 0 frames"),
        (FRAMES, cut, "file-000.parquet: damaged"),
        (FRAMES, without("sim.state"), "file-000.parquet: damaged .other columns"),
        (EPISODES, without("length"), "file-000.parquet: damaged"),
        (EPISODES, cut, "file-000.parquet: damaged"),
        (VIDEO, Path.unlink, "file-000.mp4: missing"),
        (VIDEO, cut, "file-000.mp4: damaged"),
        (VIDEO, lambda path: cut(path, 0.98), "file-000.mp4: damaged"),
    ],
)
def test_what_is_damaged_is_not_opened(file, damage, message, dataset, filmed, tmp_path):
    root = tmp_path / "damaged"
    shutil.copytree(filmed if file == VIDEO else dataset.root, root)
    damage(root / file)
    with pytest.raises(UserError, match=message):
        open_recording(root)


def test_a_dataset_of_before_there_was_a_setting_is_opened(dataset, tmp_path):
    root = tmp_path / "older"
    shutil.copytree(dataset.root, root)
    file = root / "meta/recording.json"
    notes = json.loads(file.read_text())
    del notes["recipe"]["hindsight"], notes["recipe"]["task"]
    file.write_text(json.dumps(notes))
    assert open_recording(root).notes == dataset.notes
    del notes["recipe"]["fingerprint"]  # no setting
    file.write_text(json.dumps(notes))
    with pytest.raises(UserError, match="recording.json: not written by this"):
        open_recording(root)


@pytest.fixture(scope="module")
def filmed(record_block, make_recipe, tmp_path_factory):
    root = tmp_path_factory.mktemp("filmed") / "data"
    dataset = Dataset(root, Notes(make_recipe(video=True)))
    dataset.append(record_block(video=True)[:2], dataset.notes)
    return root


@pytest.mark.parametrize("column", ["action", "next.reward", "sim.state", "task_index"])
def test_a_missing_value_is_named(column, dataset):
    doctor(dataset, column, 4, lambda value: None)
    with pytest.raises(UserError, match=rf"file-000.parquet: damaged .{column} is missing in a frame"):
        verify(dataset)


@pytest.mark.parametrize("file", [FRAMES, EPISODES, VIDEO, "meta/info.json", "meta/tasks.parquet"])
def test_no_pipe_is_waited_for(file, dataset, filmed, tmp_path):
    root = tmp_path / "piped"
    shutil.copytree(filmed if file == VIDEO else dataset.root, root)
    (root / file).unlink()
    os.mkfifo(root / file)
    with pytest.raises(UserError, match=Path(file).name):
        open_recording(root)


@pytest.mark.parametrize(
    "change",
    [
        lambda v: v | {"bytes": v["bytes"][:100]},
        lambda v: v | {"bytes": b"no picture"},
        lambda v: v | {"bytes": encode_png(np.zeros((16, 16, 3), np.uint8))},
    ],
)
def test_a_damaged_picture_is_named(change, dataset):
    doctor(dataset, "observation.image", 4, change)
    with pytest.raises(UserError, match=r"file-000.parquet: damaged"):
        verify(dataset)


def test_a_damaged_page_is_named_also_on_resuming(dataset, block):
    flip(dataset.root / FRAMES)
    opened = open_recording(dataset.root)
    for use in (verify, lambda dataset: dataset.append(block[3:], dataset.notes)):
        with pytest.raises(UserError, match=r"file-000.parquet: damaged"):
            use(opened)
