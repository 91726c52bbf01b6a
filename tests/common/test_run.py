import os
import signal
from dataclasses import dataclass, replace

import pytest

from common import run
from common.errors import UserError
from common.run import StopRequest, choose_folder, only_process_in, open_folder


@dataclass(frozen=True)
class Config:
    lr: float = 1e-3  # step size
    steps: int = 10  # length
    seed: int = 1  # of everything


def test_a_run_goes_on_in_its_folder_and_begins_anew_in_the_next(tmp_path):
    for name in ("run", "run_2"):
        (tmp_path / name).mkdir()
    assert choose_folder(tmp_path, "run", resume=True) == tmp_path / "run"
    assert choose_folder(tmp_path, "run", resume=False) == tmp_path / "run_3"
    assert choose_folder(tmp_path, "new", resume=False) == tmp_path / "new"


def test_a_new_run_has_no_checkpoint_and_a_started_one_its_last(tmp_path):
    assert open_folder(tmp_path, Config(), "python x.py", may_change=()) is None
    checkpoints = tmp_path / "checkpoints"
    (checkpoints / "step_1").mkdir(parents=True)
    (checkpoints / "last").symlink_to("step_1")
    assert open_folder(tmp_path, Config(), "python x.py", may_change=()) == checkpoints / "last"


def test_only_what_may_change_changes(tmp_path):
    open_folder(tmp_path, Config(), "python x.py", may_change=("steps",))
    saved = (tmp_path / "config.yaml").read_text()
    with pytest.raises(UserError, match=r"\(lr: 0.001 -> 0.1; seed: 1 -> 2\)") as caught:
        open_folder(tmp_path, Config(lr=0.1, steps=20, seed=2), "python x.py", may_change=("steps",))
    assert "steps" not in str(caught.value)
    assert (tmp_path / "config.yaml").read_text() == saved
    open_folder(tmp_path, Config(steps=20), "python x.py --steps 20", may_change=("steps",))
    assert "steps: 20" in (tmp_path / "config.yaml").read_text()
    assert (tmp_path / "command.txt").read_text() == "python x.py\npython x.py --steps 20\n"


def test_a_kill_leaves_the_old_config(tmp_path, monkeypatch):
    def killed(config, path):
        path.write_text("lr: 0.")
        raise KeyboardInterrupt

    open_folder(tmp_path, Config(), "python x.py", may_change=("steps",))
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(run, "save_yaml", killed)
        open_folder(tmp_path, Config(steps=20), "python x.py --steps 20", may_change=("steps",))
    open_folder(tmp_path, replace(Config(), steps=30), "python x.py", may_change=("steps",))


def test_a_run_whose_last_checkpoint_is_gone_does_not_begin_anew(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last").symlink_to("step_7")
    with pytest.raises(UserError, match="last leads to step_7, which is gone"):
        open_folder(tmp_path, Config(), "python x.py", may_change=())


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


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop()
        os.kill(os.getpid(), number)
        assert stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
