"""Checkpoints and runs as a stranger might send them: whole, to be spoilt."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

import train_act
import train_sac
from common.checkpoint import save_json
from common.errors import UserError
from envs.pusht.vector import PushTVectorEnv
from tests.act.tiny import save
from tests.act.tiny_act import make
from tests.runs import sentence
from tests.train_act import runs as act_runs
from tests.train_sac import runs as sac_runs
from tests.train_sac.conftest import TINY as TINY_SAC


@contextmanager
def short_episodes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("envs.pusht.task.PushTVectorEnv", partial(PushTVectorEnv, max_episode_steps=20))
        yield


@pytest.fixture(autouse=True)
def episodes_are_short():
    with short_episodes():
        yield


@pytest.fixture(scope="session")
def whole_policy(tmp_path_factory) -> Path:
    folder = save(make(), tmp_path_factory.mktemp("policy"))
    save_json(folder / "task.json", {"task": "pusht"})
    return folder


@pytest.fixture
def policy(whole_policy, tmp_path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(whole_policy, tmp_path / "policy"))


@pytest.fixture(scope="session")
def trainings(make_dataset, tmp_path_factory) -> tuple[Path, dict[str, Callable[..., object]]]:
    """The logs of a short run each of `act` and `sac`, and how to train there or elsewhere."""
    folder = tmp_path_factory.mktemp("trainings")
    dataset = make_dataset(folder / "dataset")
    act, sac = folder / "act.yaml", folder / "sac.yaml"
    act.write_text(act_runs.TINY)
    sac.write_text(TINY_SAC)

    def train(kind: str, logs: Path, *flags: str) -> object:
        if kind == "act":
            return train_act.main(act_runs.command_line(act, dataset, logs, *flags))
        return train_sac.main(sac_runs.command_line(sac, logs, *flags))

    with short_episodes():
        train("act", folder / "act", "--steps", "12")
        train("sac", folder / "sac", "--total-env-steps", "600", "--training.keep-every", "200")
    return folder, {kind: partial(train, kind) for kind in ("act", "sac")}


MORE = {"act": ("--steps", "14"), "sac": ("--total-env-steps", "700", "--training.keep-every", "200")}


@pytest.fixture
def run(trainings, tmp_path, request) -> Path:
    """A copy of a run, of `act` unless the test asks for `sac`."""
    kind = getattr(request, "param", "act")
    return Path(shutil.copytree(trainings[0] / kind / "run", tmp_path / kind / "run", symlinks=True))


@pytest.fixture
def resume(trainings) -> Callable[..., object]:
    """Trains a copied run on."""
    return lambda run, *flags: trainings[1][run.parent.name](run.parent, *MORE[run.parent.name], *flags)


@pytest.fixture
def told(capfd) -> Callable[..., str]:
    """Calls something that is to refuse as a person should be refused, and returns the sentence."""

    def told(call: Callable[..., object], *arguments) -> str:
        capfd.readouterr()
        try:
            with pytest.raises(SystemExit) as stopped:
                call(*arguments)
        except UserError as error:  # of a function that a script would call
            said = str(error)
        else:
            assert stopped.value.code == 2
            said = sentence(capfd.readouterr().err)
        assert "\n" not in said and len(said.replace(str(Path("/tmp")), "")) < 600
        return said

    return told
