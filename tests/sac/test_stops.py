"""Stopped, killed, diverged or damaged: what a training leaves, and how it goes on."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from common import untrusted
from common.errors import UserError
from sac.config import AgentConfig
from tests.sac.walk import Rows, assert_same_run, contents, make_trainer, run


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


class Killed(BaseException):
    """No handler of errors catches it, as none runs after kill -9."""


class Killer:
    """An audit hook that ends the training at its n-th change of the disk and allows none after it."""

    CHANGES = ("open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir")

    def __init__(self) -> None:
        self.armed, self.changes, self.deadline = False, 0, 0
        sys.addaudithook(self._hook)  # for ever: there is no way to remove one

    def run(self, folder: Path, deadline: int, plays: int = 1000) -> bool:
        """Whether the training lived to its end."""
        self.armed, self.changes, self.deadline = True, 0, deadline
        try:
            run(folder, plays)
        except Killed:
            return False
        finally:
            self.armed = False
        return True

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.armed and event in self.CHANGES and arguments[1] != "r":
            self.changes += 1
            if self.changes > self.deadline:
                raise Killed


@pytest.fixture(scope="module")
def killer() -> Killer:
    return Killer()


def assert_checkpoints_are_whole(checkpoints: Path) -> None:
    for folder in checkpoints.glob("[!.]*"):  # what `best` and `last` lead to among them
        untrusted.load_tensors(folder / "model.safetensors")
        untrusted.load_json(folder / "config.json")
    if (checkpoints / "last").is_symlink():
        contents(checkpoints / "last")


@pytest.mark.slow
def test_killed_at_any_change_of_the_disk_it_goes_on(uninterrupted, tmp_path, killer):
    """Also when it is killed twice, and when it stops for a signal before it gets to where it was killed."""
    rng = np.random.default_rng(0)
    for deadline in range(10_000):
        folder = tmp_path / str(deadline)
        lived = killer.run(folder, deadline)
        if not lived:
            assert_checkpoints_are_whole(folder / "checkpoints")
            killer.run(folder, int(rng.integers(60)), plays=int(rng.integers(1, 12)))
            assert_checkpoints_are_whole(folder / "checkpoints")
            run(folder)
        assert_same_run(folder, uninterrupted[0])
        if lived:
            break
    assert deadline > 50


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
