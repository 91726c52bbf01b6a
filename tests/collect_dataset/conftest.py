"""Recordings that tests share."""

import multiprocessing
from functools import partial

import pytest

import collect_dataset
from recording.workers import BlockRecorder
from tests.collect_dataset.runs import Forks, record


@pytest.fixture
def short_blocks(monkeypatch):
    monkeypatch.setattr(collect_dataset, "BlockRecorder", partial(BlockRecorder, block_size=4))


@pytest.fixture
def forked_workers(monkeypatch):
    """They need no imports, and have what a test has patched."""
    fork = multiprocessing.get_context("fork")
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: fork)


@pytest.fixture(scope="session")
def forks():
    forks = Forks()
    yield forks
    forks.process.stdin.close()
    forks.process.wait(timeout=30)


@pytest.fixture(scope="session")
def finished(tmp_path_factory):
    """A recording of two episodes; not to be changed."""
    root = tmp_path_factory.mktemp("finished") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(collect_dataset, "BlockRecorder", partial(BlockRecorder, block_size=4))
        record(root, "--episodes 2 --observations keypoints")
    return root
