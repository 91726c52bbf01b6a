"""Checkpoints of a replay of pictures, at every moment of three laps of its rings."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from common.checkpoint import TRAINING_STATE, save_tensors
from common.errors import UserError
from common.untrusted import load_tensors
from sac import checkpoint, frame_chunks
from sac.frame_replay import FrameReplay
from tests.sac.pixel_play import GAMMA, Play
from tests.sac.walk import make_trainer

PICTURE, RING, LENGTH = (3, 4, 3), 40, 8  # pictures of an environment, and in a chunk
PICTURE_BYTES = 36


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(frame_chunks, "CHUNK_BYTES", LENGTH * PICTURE_BYTES + 5)


def make() -> FrameReplay:
    return FrameReplay(2 * RING, 2, PICTURE, 3, 3, 2, 3, GAMMA, shift=1, views=2)


def save(replay: FrameReplay, folder: Path, previous: Path | None = None) -> Path:
    """Returns the folder of the pictures."""
    folder.mkdir()
    save_tensors(folder / "state", replay.state_dict())
    replay.save_frames(folder / "frames", previous)
    return folder / "frames"


def load(replay: FrameReplay, folder: Path, position: int) -> FrameReplay:
    replay.load_state_dict(load_tensors(folder / "state"), position)
    replay.load_frames(folder / "frames")
    return replay


def assert_same_samples(one: FrameReplay, other: FrameReplay) -> None:
    assert (one.size, one.position) == (other.size, other.position)
    batches = [each.sample(30, torch.Generator().manual_seed(one.position)) for each in (one, other)]
    for ours, theirs in zip(*batches, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def needed(replay: FrameReplay) -> list[str]:
    """Names of the chunks with a picture that is still held, found one by one."""
    held = {int(serial) // LENGTH for serial in replay.serial.reshape(-1) if serial >= 0}
    return sorted(f"{chunk:08d}.uint8" for chunk in held)


def names(frames: Path) -> list[str]:
    return sorted(path.name for path in frames.iterdir())


def test_a_replay_without_pictures_is_saved_too(tmp_path):
    """As after updates from demonstrations alone."""
    frames = save(make(), tmp_path / "empty")
    assert names(frames) == []
    assert load(make(), tmp_path / "empty", 0).size == 0


@pytest.mark.slow
@pytest.mark.parametrize("every", [1, 5, 21], ids=["often", "now and then", "seldom"])
def test_loaded_replays_go_on_as_if_nothing_had_happened(tmp_path, every):
    play, replay = Play(2, PICTURE, 3), make()
    replays, previous = [replay], None
    for i in range(1, 130 // every + 1):
        play(every, *replays)
        previous = save(replay, tmp_path / f"{i}", previous)
        if i % (30 // every + 1) == 1:
            replays.append(load(make(), tmp_path / f"{i}", replay.position))
        if replay.size:
            for other in replays[1:]:
                assert_same_samples(replay, other)
    assert len(replays) >= 3 and replay.written.min() > 3 * RING


def test_a_checkpoint_writes_what_is_new(tmp_path):
    play, replay, previous, full = Play(2, PICTURE, 3), make(), None, {}
    for i in range(50):
        before = replay.position
        play(4, replay)
        frames = save(replay, tmp_path / f"{i}", previous)
        assert names(frames) == needed(replay)
        new = [path for path in sorted(frames.iterdir()) if path.stat().st_nlink == 1]
        assert [int(path.stem) for path in new] == list(
            range(before // LENGTH, -(-replay.position // LENGTH))  # from the one that was open
        )
        assert sum(path.stat().st_size for path in new) <= PICTURE_BYTES * (replay.position - before + LENGTH)
        for name, content in full.items():  # what is full never changes
            if (frames / name).exists():
                assert (frames / name).read_bytes() == content
        again = save(replay, tmp_path / "again", frames)
        assert {path.stat().st_nlink >= 2 for path in again.iterdir()} == {True}
        shutil.rmtree(again.parent)
        full |= {path.name: path.read_bytes() for path in new if int(path.stem) < replay.position // LENGTH}
        if previous:
            shutil.rmtree(previous.parent)  # as it is when the next one is there
        previous = frames
    assert len(full) > 3 * len(names(previous))


@pytest.fixture
def saved(tmp_path) -> tuple[FrameReplay, Path, Path]:
    """A replay in its second lap, its checkpoint, and a full chunk in that."""
    play, replay = Play(2, PICTURE, 3), make()
    play(50, replay)
    frames = save(replay, tmp_path / "saved")
    return replay, frames, frames / names(frames)[-3]


def test_a_disk_without_hard_links_gets_everything_anew(saved, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    replay, frames, _ = saved
    again = save(replay, tmp_path / "again", frames)
    assert {path.stat().st_nlink for path in again.iterdir()} == {1}
    assert names(again) == names(frames)
    assert_same_samples(replay, load(make(), tmp_path / "again", replay.position))


def damage_link(path: Path) -> None:
    size = path.stat().st_size
    path.rename(path.with_name("secret"))
    path.symlink_to("./" * ((size - 6) // 2) + "secret")
    assert path.lstat().st_size == size


def damage_truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def damage_longer(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"1")


def damage_missing(path: Path) -> None:
    path.unlink()


def damage_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damage_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES = [damage_truncated, damage_longer, damage_missing, damage_pipe, damage_folder]


@pytest.mark.parametrize("damage", [*DAMAGES, damage_link])
def test_what_is_no_chunk_is_written_anew(saved, tmp_path, damage):
    replay, frames, chunk = saved
    damage(chunk)
    again = save(replay, tmp_path / "again", frames)
    assert (again / chunk.name).lstat().st_nlink == 1 and not (again / chunk.name).is_symlink()
    assert_same_samples(replay, load(make(), tmp_path / "again", replay.position))


@pytest.mark.parametrize("which", [-1, -3], ids=["open", "full"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_chunks_get_a_sentence(saved, damage, which):
    replay, frames, _ = saved
    chunk = frames / names(frames)[which]
    damage(chunk)
    with pytest.raises(UserError) as refused:
        load(make(), frames.parent, replay.position)
    said = str(refused.value)
    assert said.startswith(f"{chunk}: ") and "\n" not in said
    assert any(why in said for why in ("missing", "damaged (it has ", "no regular file", "Is a directory"))


CHANGES = {
    "written": lambda value: value + 1,
    "serial": lambda value: value.clamp(min=int(value.max()) - 5),
    "steps": lambda value: value + 4,
    "age": lambda value: value - 1,
    "durations": lambda value: value - 9,
    "numbers": lambda value: value[..., :2],
    "actions": lambda value: value.double(),
    "rewards": lambda value: value[:1],
}


@pytest.mark.parametrize("name", CHANGES)
def test_states_of_no_replay_are_refused(saved, name):
    replay, frames, _ = saved
    state = load_tensors(frames.parent / "state")
    with pytest.raises(ValueError):
        make().load_state_dict(
            state | {f"replay.{name}": CHANGES[name](state[f"replay.{name}"])}, replay.position
        )
    with pytest.raises(ValueError):
        make().load_state_dict(state, replay.position - 1)


def with_pictures(folder: Path):
    """A trainer whose replay holds pictures; its other parts are a walk's."""
    folder.mkdir(exist_ok=True)
    trainer = make_trainer(folder)
    trainer.replay = make()
    return trainer


def test_trainings_save_and_load_them(tmp_path):
    play, trainer = Play(2, PICTURE, 3), with_pictures(tmp_path / "run")
    saved = {}
    for steps in (10, 20, 30):
        play(20, trainer.replay)
        trainer.env_steps = steps
        trainer.save()
        frames = trainer.checkpoints.path(steps) / TRAINING_STATE / checkpoint.FRAMES
        saved[steps] = {path.name: path.stat().st_ino for path in frames.iterdir()}
        assert names(frames) == needed(trainer.replay)
    shared = saved[20].items() & saved[30].items()
    assert len(shared) > 3 and len(list((tmp_path / "run").rglob("*.uint8"))) == len(saved[30])
    other = with_pictures(tmp_path / "run")
    other.load(tmp_path / "run/checkpoints/last")
    assert_same_samples(trainer.replay, other.replay)
    next(frames.iterdir()).unlink()
    with pytest.raises(UserError, match="missing"):
        with_pictures(tmp_path / "run").load(tmp_path / "run/checkpoints/last")


def test_pictures_elsewhere_are_not_linked(tmp_path):
    play, trainer = Play(2, PICTURE, 3), with_pictures(tmp_path / "run")
    play(50, trainer.replay)
    trainer.save()
    frames = trainer.checkpoints.path(0) / TRAINING_STATE / checkpoint.FRAMES
    frames.rename(tmp_path / "elsewhere")
    frames.symlink_to(tmp_path / "elsewhere")
    trainer.env_steps = 10
    trainer.save()
    assert {path.stat().st_nlink for path in (tmp_path / "elsewhere").iterdir()} == {1}
    other = with_pictures(tmp_path / "run")
    other.load(tmp_path / "run/checkpoints/last")
    assert_same_samples(trainer.replay, other.replay)
    assert np.array_equal(other.replay.frames, trainer.replay.frames)
