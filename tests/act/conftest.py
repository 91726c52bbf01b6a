"""What several test modules of `act` share: datasets, short trainings, and a tiny SmolVLA."""

from collections.abc import Iterator

import pytest

from envs.pusht.vector import PushTVectorEnv
from tests.adam import raise_epsilon


@pytest.fixture(scope="module")
def datasets(make_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    return {
        "state": make_dataset(folder / "state"),
        "image": make_dataset(folder / "image", pictures=16),
        "video": make_dataset(folder / "video", pictures=64, kind="video"),
    }


@pytest.fixture
def short_episodes(monkeypatch) -> None:
    """Evaluations of 6 steps."""
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=6))


@pytest.fixture
def short_training(make_dataset, tmp_path, short_episodes) -> list[str]:
    """The command line of one in `tmp_path/run`, at a constant learning rate; without steps and policy."""
    (config := tmp_path / "short.yaml").write_text(f"logs: {tmp_path}\nrun_name: run")
    flags = f"--config {config} --dataset.root {make_dataset(tmp_path / 'data')} --device cpu --batch-size 4"
    flags += " --optimizer.schedule constant --optimizer.warmup-steps 0 --training.eval-every 0"
    return f"{flags} --training.eval-episodes 1 --training.video-every 0".split()


@pytest.fixture(scope="module")
def rounding_makes_no_steps() -> Iterator[None]:
    """Our kernels sum in another order than LeRobot's."""
    with pytest.MonkeyPatch.context() as patch:
        raise_epsilon(patch)
        yield


@pytest.fixture(scope="module")
def vlm(tmp_path_factory):
    from tests.act.tiny_vla import make_vlm  # where transformers is installed

    return make_vlm(tmp_path_factory.mktemp("vlm") / "vlm")


@pytest.fixture(scope="module")
def policy(vlm):
    """A SmolVLA, not to be changed."""
    from tests.act.tiny_vla import make

    return make(vlm)
