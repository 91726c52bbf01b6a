"""Numbers of settings, and whether they fit into the memory."""

from dataclasses import dataclass, fields
from typing import Annotated, get_args, get_origin, get_type_hints

import pytest
import torch

import collect_dataset
import evaluate
import train_act
import train_sac
from act.kinds import with_kind
from common import memory
from common.bounds import Above, Between, Count, Seed, Share, ShareBelow1
from common.by_name import with_settings
from common.config import from_dict, to_dict
from common.errors import UserError
from envs.tasks import with_task


@dataclass(frozen=True)
class Settings:
    share: Share = 0.5
    decay: ShareBelow1 = 0.5
    count: Count = 1
    seed: Seed = 1
    small: Annotated[int, Between(0, 2**32 - 1)] = 0
    rate: Annotated[float, Above(0, 1e3)] = 1.0
    sizes: Annotated[tuple[int, ...], Above(0, 9)] = ()
    maybe: Annotated[int | None, Between(1, 9)] = None
    free: int = 0
    real: float = 0.0
    flag: bool = True
    word: str = ""


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"share": -0.1}, "share must be between 0 and 1, got -0.1"),
        ({"share": 2}, "share must be between 0 and 1, got 2.0"),
        ({"decay": 1}, "decay must be at least 0 and less than 1, got 1.0"),
        ({"decay": -0.1}, "decay must be at least 0 and less than 1, got -0.1"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"count": 10**30}, f"count must be at most 10000000, got {10**30}"),
        ({"count": 10**400}, "count must be at most 10000000, got an integer of 401 digits"),
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"seed": 2**62 + 1}, f"seed must be at most {2**62}, got {2**62 + 1}"),
        ({"small": 2**32}, f"small must be at most {2**32 - 1}, got {2**32}"),
        ({"rate": 0}, "rate must be positive, got 0.0"),
        ({"rate": "inf"}, "rate must be a finite number, got inf"),
        ({"rate": 1e-300}, "rate must be 0 or from 1e-30 to 1e+30 in size, got 1e-300"),
        ({"sizes": [1, 10]}, "sizes must be at most 9, got 10"),
        ({"sizes": [1] * 200_000}, "sizes must have at most 1000 items, got 200000"),
        ({"maybe": 0}, "maybe must be at least 1, got 0"),
        ({"free": -(10**30)}, f"free must be at least -{10**15}, got -{10**30}"),
        ({"real": -1e300}, "real must be 0 or from 1e-30 to 1e+30 in size, got -1e+300"),
    ],
)
def test_numbers_out_of_bounds(changes, message):
    with pytest.raises(UserError) as error:
        from_dict(Settings, changes)
    assert str(error.value) == message


def test_numbers_at_their_bounds():
    changes = {
        "share": 1,
        "decay": 0,
        "count": 10**7,
        "seed": 2**62,
        "small": 2**32 - 1,
        "rate": 1e3,
        "sizes": [1, 9],
    }
    assert to_dict(from_dict(Settings, changes)) == to_dict(Settings()) | changes
    assert from_dict(Settings, {"share": 0, "maybe": None, "real": -0.0}).maybe is None


def settings_of(config_class, prefix=""):
    for field in fields(config_class):
        kind = get_type_hints(config_class)[field.name]
        if hasattr(kind, "__dataclass_fields__"):
            yield from settings_of(kind, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name, kind


SCRIPTS = {
    "train_sac": with_task(train_sac.Config, "pusht"),
    "pendulum": with_task(train_sac.Config, "pendulum"),
    "train_act": with_kind(train_act.Config, "act"),
    "evaluate": evaluate.Config,
    "collect_dataset": collect_dataset.Config,
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("number", [10**30, -(10**30), 1e308, 1e-300])
def test_no_setting_of_any_script_is_absurd(script, number):
    needed = {"dataset.root": "data"} if script == "train_act" else {}
    for name, kind in settings_of(SCRIPTS[script]):
        kinds = {kind, *get_args(kind)}
        if (float if isinstance(number, float) else int) in kinds and not kinds & {str}:
            value = [number, number] if get_origin(kind) is tuple else number
            with pytest.raises(UserError, match=name.rpartition(".")[2]):
                from_dict(SCRIPTS[script], needed | {name: value})


@pytest.fixture
def small_machine(monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1e9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--training.buffer-capacity 10000000", "buffer_capacity 10,000,000 does not fit into the memory"),
        (
            "--agent.hidden-sizes 9000 9000",
            r"an agent of hidden_sizes \(9000, 9000\), num_critics 2 .* GB are",
        ),
        ("--agent.batch-size 900000", "batch_size 900000 does not fit into the memory"),
    ],
)
def test_what_does_not_fit_is_told_before_it_is_allocated(
    small_machine, tmp_path, monkeypatch, flags, message
):
    monkeypatch.setattr(torch, "zeros", lambda *_, **__: pytest.fail("allocated"))
    config = train_sac.read_config(["--device", "cpu", *flags.split()])
    with pytest.raises(UserError, match=message):
        train_sac.build_trainer(config, tmp_path)


@pytest.mark.slow
def test_the_recipe_fits_into_a_small_machine(small_machine, tmp_path):
    assert train_sac.build_trainer(train_sac.read_config(["--device", "cpu"]), tmp_path)


@pytest.mark.parametrize(
    ("files", "left"),
    [
        ({"memory.max": "max", "memory.current": "5"}, float("inf")),
        (
            {"memory.max": "9000", "memory.current": "5000", "memory.stat": "anon 1\ninactive_file 700\n"},
            4700,
        ),
        ({}, float("inf")),
    ],
)
def test_a_container_has_what_its_limit_leaves(monkeypatch, tmp_path, files, left):
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert memory._left_in_group(*memory.GROUPS[0]) == left


def test_this_machine_has_some_memory_and_not_all():
    assert 1e6 < memory.free_bytes(torch.device("cpu")) < 1e15


def test_bounds_stay_where_a_class_gets_other_defaults():
    """As `collect_dataset.py --resume` reads its flags."""
    config_class = with_settings(collect_dataset.Config, {"hold": 3, "seed": 5})
    assert from_dict(config_class, {}).hold == 3
    with pytest.raises(UserError, match="hold must be at most 10000, got 10001"):
        from_dict(config_class, {"hold": 10_001})
