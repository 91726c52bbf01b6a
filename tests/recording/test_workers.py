"""What goes wrong in workers; those of these tests are forked, since a new Python takes seconds to start."""

import multiprocessing
import signal
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.errors import UserError
from common.signals import STOP_SIGNALS
from recording import workers
from recording.schema import Recipe
from recording.workers import BlockRecorder, recorded_blocks


@dataclass(frozen=True)
class Troubled(BlockRecorder):
    """Block 1 does what `trouble` says, once, or always if there is no folder to note it in."""

    trouble: str = ""
    notes: Path | None = None

    def open_policy(self):
        return None

    def record(self, policy, number):
        if number == 1 and not (self.notes and (self.notes / "done").exists()):
            if self.notes:
                (self.notes / "done").touch()
            if self.trouble == "hang":
                time.sleep(600)
            raise UserError("no room") if self.trouble == "refuse" else ZeroDivisionError("by nothing")
        return [number]


@pytest.fixture
def forked(monkeypatch):
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(workers.multiprocessing, "get_context", lambda _: fork)
    for library, setting in ((workers.torch, "set_num_threads"), (workers.cv2, "setNumThreads")):
        monkeypatch.setattr(library, setting, lambda _: None)  # would wait for threads that a fork has not
    return fork


def first_blocks(recorder, number=4):
    with closing(recorded_blocks(recorder, 0, workers=2)) as source:
        return [next(source) for _ in range(number)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        ("raise", "a worker failed (ZeroDivisionError: by nothing); its episodes are recorded again"),
        ("hang", "a worker hung; its episodes are recorded again"),
    ],
)
def test_it_is_told_and_done_again(trouble, message, forked, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(workers, "BLOCK_TIMEOUT_S", 3.0)
    assert first_blocks(Troubled(Recipe(), "", trouble=trouble, notes=tmp_path)) == [[0], [1], [2], [3]]
    assert capsys.readouterr().out.count(message) == 1


def test_what_fails_again_and_again_is_given_up(forked):
    with pytest.raises(UserError, match="ZeroDivisionError: by nothing.*3 times in a row"):
        first_blocks(Troubled(Recipe(), "", trouble="raise"))


def test_what_a_person_has_to_mend_is_not_tried_again(forked, capsys):
    with pytest.raises(UserError, match="^no room$"):
        first_blocks(Troubled(Recipe(), "", trouble="refuse"))
    assert not capsys.readouterr().out


def test_a_policy_that_cannot_be_opened_starts_no_worker(monkeypatch):
    monkeypatch.setattr(workers, "_Worker", lambda *_: pytest.fail("it started workers"))
    with pytest.raises(UserError, match="nowhere: no such folder"):
        first_blocks(BlockRecorder(Recipe(), "nowhere"))


class Large(Troubled):
    def record(self, policy, number):
        return [bytes(100_000_000)]


@pytest.mark.slow
def test_it_ends_while_workers_are_at_writing(forked):
    process = forked.Process(target=first_blocks, args=(Large(Recipe(), ""), 2))
    process.start()
    process.join(timeout=30)
    ended = process.exitcode
    process.kill()
    assert ended == 0


def test_other_processes_are_left_alone(forked, tmp_path):
    other = forked.Process(target=time.sleep, args=(600,), daemon=True)
    other.start()
    first_blocks(Troubled(Recipe(), "", trouble="raise", notes=tmp_path))
    for process in multiprocessing.active_children():
        process.join(timeout=0 if process is other else 30)
    assert multiprocessing.active_children() == [other]
    other.kill()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells what is blocked")
def test_a_worker_hears_no_signal_from_its_first_line_on():
    """Also the first one, with which multiprocessing starts a process of its own that unblocks signals."""
    workers.resource_tracker._resource_tracker._stop()  # pyright: ignore
    worker = workers._Worker(BlockRecorder(Recipe(), "scripted"), 0, 1)
    try:
        status = Path(f"/proc/{worker.process.pid}/status").read_text()
    finally:
        worker.close()
    blocked = int(status.split("SigBlk:")[1].split()[0], 16)
    assert all(blocked >> (number - 1) & 1 for number in STOP_SIGNALS)
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
