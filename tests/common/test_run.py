import errno
import fcntl
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.errors import UserError
from common.run import choose_folder, last_checkpoint, only_process_in, write_down


@dataclass(frozen=True)
class Config:
    task: str = "walk"
    lr: float = 1e-3  # step size
    steps: int = 10  # length
    seed: int = 1  # of everything


def test_a_lock_that_is_taken_away_holds_nothing(tmp_path, monkeypatch):
    """As by the process before, whose start was refused."""
    flock = fcntl.flock

    def lock_and_take_away(descriptor, operation):
        flock(descriptor, operation)
        (tmp_path / ".lock").unlink()

    monkeypatch.setattr(fcntl, "flock", lock_and_take_away)
    with pytest.raises(UserError, match="another process is training there"), only_process_in(tmp_path):
        pytest.fail("two could be there")


def test_a_folder_in_which_nothing_began_is_not_left(tmp_path):
    with pytest.raises(UserError, match="refused"), only_process_in(tmp_path / "logs" / "run"):
        raise UserError("refused")
    assert not (tmp_path / "logs" / "run").exists()
    with pytest.raises(UserError, match="refused"), only_process_in(tmp_path / "logs" / "run"):
        (tmp_path / "logs" / "run" / "config.yaml").touch()
        raise UserError("refused")
    assert (tmp_path / "logs" / "run" / "config.yaml").exists()


def test_a_run_goes_on_in_its_folder_and_begins_anew_in_the_next(tmp_path):
    for name in ("run", "run_2"):
        (tmp_path / name).mkdir()
    assert choose_folder(tmp_path, "run", resume=True) == tmp_path / "run"
    assert choose_folder(tmp_path, "run", resume=False) == tmp_path / "run_3"
    assert choose_folder(tmp_path, "new", resume=False) == tmp_path / "new"


@pytest.fixture
def begun(tmp_path) -> Path:
    """The folder of a run that has saved a checkpoint."""
    write_down(tmp_path, Config(), "python x.py")
    (tmp_path / "checkpoints" / "step_1" / "training_state").mkdir(parents=True)
    (tmp_path / "checkpoints" / "last").symlink_to("step_1")
    return tmp_path


def test_a_run_goes_on_from_its_last_checkpoint(begun):
    assert last_checkpoint(begun, Config(), may_change=()) == begun / "checkpoints" / "last"


def test_a_run_that_has_saved_nothing_binds_no_one(tmp_path):
    assert last_checkpoint(tmp_path, Config(), may_change=()) is None
    write_down(tmp_path, Config(), "python x.py")
    assert last_checkpoint(tmp_path, Config(lr=0.1), may_change=()) is None


def test_only_what_may_change_changes(begun):
    with pytest.raises(UserError, match=r"\(lr: 0.001 -> 0.1; seed: 1 -> 2\)") as caught:
        last_checkpoint(begun, Config(lr=0.1, steps=20, seed=2), may_change=("steps",))
    assert "steps" not in str(caught.value)
    assert last_checkpoint(begun, Config(steps=20), may_change=("steps",))


def test_config_and_commands_are_written_down(begun):
    write_down(begun, Config(steps=20), "python x.py --steps 20")
    assert "steps: 20" in (begun / "config.yaml").read_text()
    assert (begun / "command.txt").read_text() == "python x.py\npython x.py --steps 20\n"


def test_a_kill_leaves_the_old_config(begun, monkeypatch):
    def killed(path, target):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "replace", killed)
        write_down(begun, Config(steps=20), "python x.py --steps 20")
    assert last_checkpoint(begun, Config(), may_change=())


def test_a_run_whose_last_checkpoint_is_gone_does_not_begin_anew(begun):
    shutil.rmtree(begun / "checkpoints" / "step_1")
    with pytest.raises(UserError, match="last leads to step_1, which is gone"):
        last_checkpoint(begun, Config(), may_change=())


@pytest.mark.parametrize("names", [("step_00000900", "step_00001000"), ("000900", "1000000")])
def test_a_run_copied_without_links_goes_on_from_its_newest_whole_checkpoint(tmp_path, names):
    """Of ours and of LeRobot's, whose names do not sort as their numbers do."""
    write_down(tmp_path, Config(), "python x.py")
    for name in names:
        (tmp_path / "checkpoints" / name / "training_state").mkdir(parents=True)
    for name in ("step_00002000", "step_x", ".step_00003000.partial", "9" * 200):
        (tmp_path / "checkpoints" / name).mkdir()
    last = last_checkpoint(tmp_path, Config(), may_change=())
    assert last and last.resolve().name == names[1]


def test_one_process_at_a_time(tmp_path):
    folder = tmp_path / "logs" / "run"
    with only_process_in(folder):
        with pytest.raises(UserError, match="another process is training there"), only_process_in(folder):
            pytest.fail("two at once")
        with only_process_in(tmp_path / "logs" / "other"):
            pass
    with only_process_in(folder):
        pass


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "logs").touch()
    with pytest.raises(UserError, match="run: cannot be written"), only_process_in(tmp_path / "logs" / "run"):
        pytest.fail("went on")


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told(tmp_path, code, monkeypatch, capsys):
    def fail(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(fcntl, "flock", fail)
    with only_process_in(tmp_path):
        told = capsys.readouterr().err
    assert told.startswith(f"warning: {tmp_path}: cannot be locked ({os.strerror(code)})")


def test_a_lock_empties_and_makes_no_file_of_others(tmp_path):
    """A stranger's run may have anything of that name."""
    lock, theirs = tmp_path / ".lock", tmp_path / "theirs"
    theirs.write_text("their work")
    os.link(theirs, lock)
    with only_process_in(tmp_path):
        pass
    for target in (theirs, tmp_path / "new"):
        lock.unlink()
        lock.symlink_to(target)
        with pytest.raises(UserError, match=r"\.lock: cannot be written"), only_process_in(tmp_path):
            pytest.fail("went on")
    assert theirs.read_text() == "their work" and not (tmp_path / "new").exists()
