"""A training of a network too small to learn, and what is done to it."""

from collections.abc import Callable
from pathlib import Path

import pytest

import train_act
from tests.train_act.runs import TINY, command_line


@pytest.fixture(scope="module")
def dataset(request, make_dataset, tmp_path_factory) -> Path:
    """Keypoints, or else pictures of so many pixels."""
    pictures = getattr(request, "param", 0)
    root = tmp_path_factory.mktemp("datasets") / ("image" if pictures else "state")
    return make_dataset(root, pictures=pictures, keypoints=not pictures)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def uninterrupted(tiny, dataset, tmp_path_factory) -> Path:
    """The folder of a run that nothing disturbed."""
    logs = tmp_path_factory.mktemp("uninterrupted")
    assert train_act.main(command_line(tiny, dataset, logs))
    return logs / "run"


@pytest.fixture
def train(tiny, dataset, tmp_path) -> Callable[..., bool]:
    """Trains in `tmp_path/run`, in this process."""
    return lambda *flags: train_act.main(command_line(tiny, dataset, tmp_path, *flags))
