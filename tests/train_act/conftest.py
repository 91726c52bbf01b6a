"""A training of a network too small to learn, and what is done to it."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

import train_act
from envs.pusht.vector import PushTVectorEnv
from tests.train_act.runs import TINY, command_line


@pytest.fixture(autouse=True)
def short_episodes(monkeypatch) -> None:
    """Evaluations of 20 steps: what is tested is the training around them."""
    short = partial(PushTVectorEnv, max_episode_steps=20)
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", short)


@pytest.fixture(scope="session")
def dataset_of(make_dataset, tmp_path_factory) -> Callable[[int], Path]:
    """Keypoints, or else pictures of so many pixels; made once."""
    folder = tmp_path_factory.mktemp("datasets")

    @cache
    def dataset_of(pictures: int) -> Path:
        root = folder / (f"image_{pictures}" if pictures else "state")
        return make_dataset(root, pictures=pictures, keypoints=not pictures)

    return dataset_of


@pytest.fixture
def dataset(request, dataset_of) -> Path:
    """Keypoints, or else pictures of so many pixels; not to be changed."""
    return dataset_of(getattr(request, "param", 0))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="session")
def uninterrupted_on(tiny, tmp_path_factory) -> Callable[[Path], Path]:
    """The folder of a run on a dataset that nothing disturbed; trained once."""

    @cache
    def uninterrupted_on(dataset: Path) -> Path:
        logs = tmp_path_factory.mktemp("uninterrupted")
        assert train_act.main(command_line(tiny, dataset, logs))
        return logs / "run"

    return uninterrupted_on


@pytest.fixture
def uninterrupted(dataset, uninterrupted_on) -> Path:
    """The folder of a run that nothing disturbed; not to be changed."""
    return uninterrupted_on(dataset)


@pytest.fixture
def train(tiny, dataset, tmp_path) -> Callable[..., bool]:
    """Trains in `tmp_path/run`, in this process."""
    return lambda *flags: train_act.main(command_line(tiny, dataset, tmp_path, *flags))
