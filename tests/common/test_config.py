import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import yaml

from common.config import config_path, differences, from_dict, parse, save_yaml, to_dict
from common.errors import UserError
from common.flags import typed


@dataclass
class Agent:
    lr: float = 3e-4  # step size of Adam
    gamma: float = 0.99  # discount per environment step
    hidden: tuple[int, ...] = (256, 256)  # width of each hidden layer
    target_entropy: float | None = None  # nats; None is minus the number of action dimensions
    action: Literal["relative", "absolute"] = "relative"  # what an action means
    tied: bool = False  # one encoder for actor and critics

    def __post_init__(self):
        if not 0 <= self.gamma < 1:
            raise ValueError(f"gamma must be in [0, 1), got {self.gamma}")


@dataclass
class Evaluation:
    episodes: int = 50  # episodes per evaluation
    size: tuple[int, int] = (96, 96)  # height and width, px

    def validate(self):
        if self.episodes < 1:
            raise ValueError(f"episodes must be at least 1, got {self.episodes}")


@dataclass
class Config:
    RENAMED: ClassVar = {"steps": "total_env_steps"}

    seed: int = 0  # one seed for everything
    total_env_steps: int = 1000  # environment steps
    run_name: str | None = None  # folder under logs
    root: Path = Path("logs")  # where runs go
    resume: bool = True  # go on from the last checkpoint
    agent: Agent = field(default_factory=lambda: Agent(tied=True))  # the algorithm
    evaluation: Evaluation = field(default_factory=Evaluation)  # how checkpoints are judged

    def __post_init__(self):
        if self.seed < 0:
            raise ValueError(f"seed must not be negative, got {self.seed}")

    def validate(self):
        if self.total_env_steps < self.evaluation.episodes:
            raise ValueError(f"total_env_steps must reach evaluation.episodes, got {self.total_env_steps}")


@pytest.mark.parametrize("name", ["run", "my run", "-r", "--", "rün 'x' \"y\"", "$HOME", "*", ""])
def test_a_command_that_is_shown_can_be_typed(name):
    assert parse(Config, shlex.split(typed("--run-name", name))).run_name == name


@pytest.fixture
def write(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "config.yaml"
        path.write_text(text)
        return str(path)

    return write


def get(config, key: str):
    for name in key.split("."):
        config = getattr(config, name)
    return config


@pytest.mark.parametrize(
    ("argv", "key", "value"),
    [
        ("", "agent.tied", True),
        ("--seed 1", "seed", 1),
        ("--seed=1", "seed", 1),
        ("--seed 2 --seed 2", "seed", 2),
        ("--total-env-steps 2000", "total_env_steps", 2000),
        ("--total_env_steps=2000", "total_env_steps", 2000),
        ("--no-resume", "resume", False),
        ("--no_resume", "resume", False),
        ("--agent.no-tied", "agent.tied", False),
        ("--agent.lr 1e-4", "agent.lr", 1e-4),
        ("--agent.target_entropy -2", "agent.target_entropy", -2.0),
        ("--agent.target-entropy None", "agent.target_entropy", None),
        ("--agent.hidden 64 32 16", "agent.hidden", (64, 32, 16)),
        ("--evaluation.size 64 48", "evaluation.size", (64, 48)),
        ("--agent.action absolute", "agent.action", "absolute"),
        ("--root somewhere/else", "root", Path("somewhere/else")),
        ("--run-name a=b", "run_name", "a=b"),
    ],
)
def test_flags(argv, key, value):
    assert get(parse(Config, argv.split()), key) == value


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("", "seed", 0),
        ("agent:\n  # all as by default", "agent.lr", 3e-4),
        ("seed: 3", "seed", 3),
        ("seed: 0x10", "seed", 16),
        ("seed: +1_0", "seed", 10),
        ("seed: 0", "seed", 0),
        ("total-env-steps: 200_000", "total_env_steps", 200_000),
        ("agent: {lr: 1e-4}", "agent.lr", 1e-4),
        ("agent: {lr: 1}", "agent.lr", 1.0),
        ("agent: {lr: 1}", "agent.tied", True),
        ("agent.lr: 0.5", "agent.lr", 0.5),
        ("agent: {hidden: [64, 32]}", "agent.hidden", (64, 32)),
        ("agent: {target_entropy: -1e0}", "agent.target_entropy", -1.0),
        ("agent: {target_entropy: null}", "agent.target_entropy", None),
        ("agent: {action: absolute}", "agent.action", "absolute"),
        ("root: a/b", "root", Path("a/b")),
        ("resume: false", "resume", False),
    ],
)
def test_yaml(write, text, key, value):
    result = get(parse(Config, [], write(text)), key)
    assert result == value and type(result) is type(value)


def test_a_home_is_where_home_says(write, monkeypatch, tmp_path):
    """In a flag as a shell leaves it, in a YAML, in the path of the YAML."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse(Config, ["--root=~/logs"]).root == tmp_path / "logs"
    assert parse(Config, ["--root=~"]).root == tmp_path
    assert parse(Config, [], write("root: ~/logs")).root == tmp_path / "logs"
    assert parse(Config, ["--config=~/config.yaml"]).root == tmp_path / "logs"
    assert parse(Config, ["--root=a/~/x"]).root == Path("a/~/x")


@dataclass
class Optional:
    """A bool that may be left to the program."""

    fast: bool | None = None
    seed: int = 1


@pytest.mark.parametrize(
    ("argv", "fast"),
    [
        ("", None),
        ("--fast", True),
        ("--no-fast", False),
        ("--fast true --seed 2", True),
        ("--fast --seed 2", True),
        ("--fast=false", False),
        ("--fast False", False),
        ("--fast none", None),
    ],
)
def test_a_bool_that_may_be_none(argv, fast):
    assert parse(Optional, argv.split()).fast is fast


@pytest.mark.parametrize(
    "argv", ["--fast maybe", "--no-fast true", "--fast --no-fast", "--fast=", "--fast Seed"]
)
def test_a_bool_that_may_be_none_refused(argv):
    with pytest.raises(UserError):
        parse(Optional, argv.split())


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("--seed 1", "--seed 2"),
        ("--resume", "--no-resume"),
        ("--agent.tied", "--agent.no-tied"),
        ("--total-env-steps 1", "--total_env_steps 2"),
        ("--agent.hidden 8 8", "--agent.hidden 8"),
        ("--config a.yaml", "--config b.yaml"),
    ],
)
def test_flags_that_contradict_each_other(first, second):
    for argv in (f"{first} {second}", f"--run-name x {second} --root y {first}"):
        with pytest.raises(UserError, match=r"^--.+ and --.+ contradict each other: leave one out$"):
            parse(Config, argv.split())
    with pytest.raises(UserError, match="^--total-env-steps 1 and --total-env-steps 2 contradict each other"):
        parse(Config, "--steps 1 --steps=2".split())


def test_flags_go_over_yaml_over_defaults(write, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("agent: {lr: 0.2}")
    default = write("seed: 5\nagent: {lr: 0.1, gamma: 0.5}")

    config = parse(Config, ["--agent.lr", "0.3"], default)
    assert (config.seed, config.agent.lr, config.agent.gamma) == (5, 0.3, 0.5)

    argv = ["--seed", "7", "--config", str(other)]
    config = parse(Config, argv, default)
    assert (config_path(argv, default), config_path([], default)) == (other, Path(default))
    assert (config.seed, config.agent.lr, config.agent.gamma) == (7, 0.2, 0.99)


def test_help_shows_meaning_and_the_default_after_the_yaml(write, capsys):
    path = write("agent: {lr: 0.125}")
    with pytest.raises(SystemExit) as exit_:
        parse(Config, ["--help"], path, description="Train it.")
    text = " ".join(capsys.readouterr().out.split())
    assert exit_.value.code == 0
    for part in ("Train it.", "--config", "step size of Adam (default: 0.125)", "--resume, --no-resume"):
        assert part in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("--root ~nobody_at_all/x", "~nobody_at_all/x: no user nobody_at_all"),
        ("--sed 1", "unknown flag --sed; did you mean --seed?"),
        ("--total-env-step=1", "unknown flag --total-env-step=1; did you mean --total-env-steps?"),
        ("--lr 1", "unknown flag --lr; did you mean --agent.lr?"),
        ("--learning-rate 1", "unknown flag --learning-rate; did you mean --agent.lr?"),
        ("--agnt.gamma 1", "unknown flag --agnt.gamma; did you mean --agent.gamma?"),
        ("--no-resme", "unknown flag --no-resme; did you mean --no-resume?"),
        ("--agent.no-tid", "unknown flag --agent.no-tid; did you mean --agent.no-tied?"),
        ("--confg x.yaml", "unknown flag --confg; did you mean --config?"),
        ("--resume false", "unexpected 'false': a setting is --FLAG VALUE, a bool is --FLAG or --no-FLAG"),
        ("--agent.lr fast", "--agent.lr: expected float, got 'fast'"),
        ("--agent.lr=fast", "--agent.lr: expected float, got 'fast'"),
        ("--agent.lr", "--agent.lr: expected float, got nothing"),
        ("--seed 1.5", "--seed: expected int, got '1.5'"),
        ("--agent.hidden 1 x", "--agent.hidden: expected a list of int, got '1 x'"),
        ("--evaluation.size 1", "--evaluation.size: expected a list of int, int, got '1'"),
        ("--agent.target_entropy auto", "--agent.target-entropy: expected float or None, got 'auto'"),
        ("--agent.action left", "--agent.action: expected one of relative, absolute, got 'left'"),
        ("--config", "--config: expected the path of one YAML file, got nothing"),
        ("--seed -1", "seed must not be negative, got -1"),
        ("--agent.gamma 1", "agent.gamma must be in [0, 1), got 1.0"),
        ("--evaluation.episodes 0", "evaluation.episodes must be at least 1, got 0"),
        ("--total-env-steps 7", "total_env_steps must reach evaluation.episodes, got 7"),
    ],
)
def test_wrong_flags(argv, message):
    with pytest.raises(UserError) as error:
        parse(Config, argv.split())
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", "unknown key sed; did you mean seed?"),
        ("lr: 1", "unknown key lr; did you mean agent.lr?"),
        ("agent: {learning_lr: 1}", "unknown key agent.learning_lr; did you mean agent.lr?"),
        ("agnt:\n  gamma: 1", "unknown key agnt.gamma; did you mean agent.gamma?"),
        ("seed: {a: 1}", "unknown key seed.a; did you mean seed?"),
        ("agent: 3", "agent: expected settings nested below it, got 3"),
        ("agent: {lr: fast}", "agent.lr: expected float, got 'fast'"),
        ("agent: {lr: true}", "agent.lr: expected float, got True"),
        ("agent: {lr: null}", "agent.lr: expected float, got None"),
        ("seed: '1'", "seed: expected int, got '1'"),
        ("seed: true", "seed: expected int, got True"),
        ("seed: 1.0", "seed: expected int, got 1.0"),
        ("seed: {}", "seed: expected int, got {}"),
        ("resume: 1", "resume: expected true or false, got 1"),
        ("run_name: 12", "run_name: expected str or None, got 12"),
        ("agent: {hidden: 64}", "agent.hidden: expected a list of int, got 64"),
        ("agent: {hidden: [64, 1.5]}", "agent.hidden: expected a list of int, got [64, 1.5]"),
        ("evaluation: {size: [1, 2, 3]}", "evaluation.size: expected a list of int, int, got [1, 2, 3]"),
        ("agent: {action: left}", "agent.action: expected one of relative, absolute, got 'left'"),
        ("agent.lr: 1\nagent: {lr: 1}", "agent.lr is given twice: leave one out"),
        ("agent: {lr: 1}\nagent.lr: 1", "agent.lr is given twice: leave one out"),
        (
            "total-env-steps: 5\ntotal_env_steps: 5",
            "total_env_steps is given twice, as total-env-steps and as total_env_steps: leave one out",
        ),
        ("steps: 5\ntotal-env-steps: 5", "total_env_steps is given twice, as steps and as total-env-steps"),
        ("seed: 1\nseed: 1", "not valid YAML: line 2: seed is given twice, in line 1 too"),
        (
            "agent:\n  lr: 1\nagent:\n  tied: true",
            "not valid YAML: line 3: agent is given twice, in line 1 too",
        ),
        ("1: x", "not valid YAML: line 1: a key must be a word, got '1'"),
        ("null: x", "not valid YAML: line 1: a key must be a word, got 'null'"),
        ("agent:\n  on: x", "not valid YAML: line 2: a key must be a word, got 'on'"),
        ("2020-01-01: x", "not valid YAML: line 1: a key must be a word, got '2020-01-01'"),
        ("? [seed]\n: 1", "not valid YAML: line 1: a key must be a word, got a list"),
        ("<<: {seed: 1}", "not valid YAML: line 1: the merge key << is not understood"),
        ("agent: !!set {lr}", "agent: expected settings nested below it, got {'lr'}"),
        ("seed: 2020-01-01", "seed: expected int, got datetime.date(2020, 1, 1)"),
        ("seed: 2020-13-45", "not valid YAML: line 1: this is no timestamp"),
        ("seed: !!int ''", "not valid YAML: line 1: this is no int"),
        ("agent: {lr: !!float x}", "not valid YAML: line 1: this is no float"),
        ("seed: !!timestamp foo", "not valid YAML: line 1: this is no timestamp"),
        ("resume: !!bool maybe", "not valid YAML: line 1: this is no bool"),
        ("seed: !!python/name:os.system", "not valid YAML: line 1: could not determine a constructor"),
        (f"seed: 1{'0' * 5000}", "not valid YAML: line 1: an integer of 5001 digits"),
        ("seed: 010", "not valid YAML: line 1: 010 is no number in decimal"),
        ("seed: 1:30", "not valid YAML: line 1: 1:30 is no number in decimal"),
        ("agent: {lr: 0:00.5}", "not valid YAML: line 1: 0:00.5 is no number in decimal"),
        ("!!str [a]: 1", "not valid YAML: line 1: a key must be a word, got a list"),
        ("agent: {!!str {a: b}: 1}", "not valid YAML: line 1: a key must be a word, got a list or mapping"),
        ("agent: !!map [1, 2]", "not valid YAML: line 1: this is no mapping"),
        ("!!set [1]", "not valid YAML: line 1: this is no mapping"),
        ("seed: !!int {a: 1}", "not valid YAML: line 1: "),
        (f"seed: {'[' * 3000}", "not valid YAML: it is nested in more than 50 levels"),
        ("seed: &a [*a]", "not valid YAML: line 1: aliases are not understood"),
        (
            f"agent: {{hidden: [{'x, ' * 9_000}]}}",
            "agent.hidden: expected a list of int, got ['x', 'x', 'x',",
        ),
        (f"run_name: [{'y' * 10_000}]", "run_name: expected str or None, got ['yyyyy"),
        (f"{'k' * 1_000}: 1", "unknown key kkkk"),
        ("seed: -1", "seed must not be negative, got -1"),
        ("agent: {gamma: 1}", "agent.gamma must be in [0, 1), got 1.0"),
        ("- seed", "expected lines of the form 'key: value', got ['seed']"),
        ("seed: [1", "not valid YAML: line 1: expected ',' or ']', but got '<stream end>'"),
    ],
)
def test_wrong_yaml(write, text, message):
    path = write(text)
    with pytest.raises(UserError) as error:
        parse(Config, [], path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_files_that_cannot_be_read(write, tmp_path):
    path = write("seed: 1")
    missing = tmp_path / "confg.yaml"
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\x00")
    for given, message in [
        (missing, f"{missing}: no such file; did you mean {path}?"),
        (tmp_path, f"{tmp_path}: not valid YAML: it is no regular file"),
        (binary, f"{binary}: not valid YAML"),
    ]:
        with pytest.raises(UserError) as error:
            parse(Config, ["--config", str(given)])
        assert str(error.value).startswith(message)


def test_flags_can_mend_what_only_validate_rejects(write):
    path = write("evaluation: {episodes: 0}")
    assert parse(Config, ["--evaluation.episodes", "1"], path).evaluation.episodes == 1
    with pytest.raises(UserError, match="^evaluation.episodes must be at least 1, got 0$"):
        parse(Config, [], path)


def test_a_saved_config_is_read_back_the_same(tmp_path):
    config = parse(Config, "--agent.lr 1e-5 --agent.hidden 8 --run-name 1e-4 --root a/b --no-resume".split())
    path = tmp_path / "saved.yaml"
    save_yaml(config, path)
    assert parse(Config, [], path) == config
    assert from_dict(Config, to_dict(config)) == config
    assert yaml.safe_load(path.read_text()) == to_dict(config)


def test_from_dict_names_its_source_and_validates():
    with pytest.raises(UserError, match="^config.json: unknown key sed; did you mean seed\\?$"):
        from_dict(Config, {"sed": 1}, source="config.json: ")
    with pytest.raises(UserError, match="^evaluation.episodes must be at least 1"):
        from_dict(Config, {"evaluation": {"episodes": 0}})


def test_differences():
    old = to_dict(Config())
    new = to_dict(parse(Config, "--agent.lr 1e-4 --agent.hidden 64 --run-name x".split()))
    assert differences(old, old) == []
    assert differences(old, new) == [
        "run_name: None -> x",
        "agent.lr: 0.0003 -> 0.0001",
        "agent.hidden: [256, 256] -> [64]",
    ]
    assert differences({"a": {"b": 1}, "c": 2}, {"a": {"d": None}, "c": 2}) == [
        "a.b: 1 -> (absent)",
        "a.d: (absent) -> None",
    ]
