"""Recordings that tests share."""

import pytest

import collect_dataset
from recording.workers import Player
from tests.collect_dataset.runs import Forks, record


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr(collect_dataset, "Player", lambda *args: Player(*args, block=4))


@pytest.fixture(scope="module")
def forks():
    forks = Forks()
    yield forks
    forks.process.stdin.close()
    forks.process.wait(timeout=30)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    root = tmp_path_factory.mktemp("finished") / "data"
    record(root, "--episodes 2 --observations keypoints")
    return root
