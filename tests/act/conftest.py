"""What several test modules of `act` share: datasets, and a tiny SmolVLA."""

import pytest


@pytest.fixture(scope="module")
def datasets(make_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    return {
        "state": make_dataset(folder / "state"),
        "image": make_dataset(folder / "image", pictures=16),
        "video": make_dataset(folder / "video", pictures=64, kind="video"),
    }


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    from tests.act.tiny_vla import make_vlm  # where transformers is installed

    return make_vlm(tmp_path_factory.mktemp("vlm") / "vlm")


@pytest.fixture(scope="module")
def policy(vlm):
    """A SmolVLA, not to be changed."""
    from tests.act.tiny_vla import make

    return make(vlm)
