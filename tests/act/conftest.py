"""Datasets that the tests of `act.dataset` and of `act.frames` share."""

import pytest


@pytest.fixture(scope="module")
def datasets(make_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    return {
        "state": make_dataset(folder / "state"),
        "image": make_dataset(folder / "image", pictures=16),
        "video": make_dataset(folder / "video", pictures=64, kind="video"),
    }
