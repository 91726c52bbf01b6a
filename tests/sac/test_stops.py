"""Stopped, killed, diverged or damaged: what a training leaves, and how it goes on."""

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

from common import untrusted
from common.errors import UserError
from sac.config import AgentConfig
from tests.sac.walk import Rows, assert_same_run, contents, make_trainer, run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("plays", range(1, 40))
def test_stopped_anywhere_it_goes_on_bit_for_bit(uninterrupted, tmp_path, plays):
    folder, rows = uninterrupted
    first, first_rows = run(tmp_path, plays)
    assert first.env_steps == 2 * plays
    assert run(tmp_path, 0)[1] == []  # started and stopped at once
    _, later_rows = run(tmp_path)
    assert first_rows + later_rows == rows
    assert_same_run(tmp_path, folder)


def test_a_finished_run_trains_on(uninterrupted, tmp_path):
    folder, rows = uninterrupted
    first_rows = run(tmp_path, total=40)[1]
    assert run(tmp_path, total=40)[1] == []
    assert first_rows + run(tmp_path)[1] == rows
    assert_same_run(tmp_path, folder)


class Watch:
    """An audit hook that calls a function before each change of the disk."""

    CHANGES = ("open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir")

    def __init__(self) -> None:
        self.call = None
        sys.addaudithook(self._hook)  # for ever: there is no way to remove one

    @contextmanager
    def __call__(self, call: Callable[[], None]) -> Iterator[None]:
        self.call = call
        try:
            yield
        finally:
            self.call = None

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.call and event in self.CHANGES and arguments[1] != "r":
            call, self.call = self.call, None  # what it changes is its own
            call()
            self.call = call


@pytest.fixture(scope="module")
def watch() -> Watch:
    return Watch()


class Copies(list):
    """Copies of a folder at successive moments, each what kill -9 leaves at that moment."""

    def __init__(self, folder: Path, only: int | None = None) -> None:
        self.folder, self.only, self.moment = folder, only, 0

    def take(self) -> None:
        if self.only in (None, self.moment):
            copy = self.folder.with_name(f"{self.folder.name}_{self.moment}")
            self.append(shutil.copytree(self.folder, copy, symlinks=True))
        self.moment += 1


def assert_checkpoints_are_whole(checkpoints: Path) -> None:
    for folder in checkpoints.glob("[!.]*"):  # what `best` and `last` lead to among them
        untrusted.load_tensors(folder / "model.safetensors")
        untrusted.load_json(folder / "config.json")
    if (checkpoints / "last").is_symlink():
        contents(checkpoints / "last")


def test_killed_at_any_change_of_the_disk_it_goes_on(tmp_path, watch):
    """Also when it is killed once more after it was resumed, or then stops for a signal."""
    rng, total = np.random.default_rng(0), 60
    (whole := tmp_path / "whole").mkdir()
    killed = Copies(whole)
    with watch(killed.take):
        run(whole, total=total)
    assert len(killed) > 50
    for folder in killed:
        assert_checkpoints_are_whole(folder / "checkpoints")
        killed_again = Copies(folder, only=rng.integers(60))
        with watch(killed_again.take):
            run(folder, plays=int(rng.integers(1, 12)), total=total)
        folder = next(iter(killed_again), folder)
        assert_checkpoints_are_whole(folder / "checkpoints")
        run(folder, total=total)
        assert_same_run(folder, whole)


def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path):
    trainer, _ = run(tmp_path, plays=25)
    with torch.no_grad():
        next(trainer.agent.actor.parameters())[0, 0] = float("nan")
    before = contents(tmp_path / "checkpoints/last")
    with pytest.raises(UserError, match=r"actor\.network\.0\.weight is not finite after 50 env steps"):
        trainer.save()
    assert contents(tmp_path / "checkpoints/last") == before
    saved = contents(tmp_path / "failed_00000050")
    assert np.isnan(saved["state"]["agent.actor.network.0.weight"][0][0])


def test_diverging_training_stops_before_the_next_log(tmp_path):
    run(tmp_path, plays=21)
    trainer = make_trainer(tmp_path)
    trainer.load(tmp_path / "checkpoints/last")
    trainer.replay.buffer.held().rewards[:] = float("inf")
    before = contents(tmp_path / "checkpoints/last")
    with pytest.raises(UserError, match="not finite after 50 env steps"):
        trainer.train(Rows(), stop=lambda: False)
    assert contents(tmp_path / "checkpoints/last") == before
    run(tmp_path)  # the run itself is not lost
    assert contents(tmp_path / "checkpoints/last")["counters"]["env_steps"] == 80


@pytest.mark.parametrize("damage", ["{}", "[]", '{"updates": "many"}', '{"updates": 3', None])
def test_damaged_counters_are_told(uninterrupted, tmp_path, damage):
    run(tmp_path, plays=20)
    counters = tmp_path / "checkpoints/last/training_state/counters.json"
    if damage is None:
        counters.unlink()
    else:
        counters.write_text(damage)
    with pytest.raises(UserError, match="training_state"):
        make_trainer(tmp_path).load(tmp_path / "checkpoints/last")


def test_a_state_of_other_networks_is_told_in_one_line(tmp_path):
    run(tmp_path, plays=20)
    trainer = make_trainer(tmp_path, agent=AgentConfig(hidden_sizes=(5,), batch_size=4, n_step=2))
    with pytest.raises(UserError, match="not the state of such a training: .*size mismatch") as caught:
        trainer.load(tmp_path / "checkpoints/last")
    assert "\n" not in str(caught.value)
