"""One experiment: nested dataclasses of defaults, changed by a YAML file, changed by flags.

A setting has one dotted name everywhere: `agent.lr` is a field of the dataclasses, a (nested) key of the YAML
and the flag `--agent.lr`. tyro makes the command line and `--help` out of the dataclasses; the comment beside
a field is its help. Every field has a default and a plain type: bool, int, float, str, Path, Literal, a tuple
or list of those, one of those or None, or another config class; `Annotated` adds bounds (`common/bounds.py`).
In JSON also a dict, of whatever it holds. A setting is given once, by one of its spellings. `~` in a path is
the home.

A config class may define `RENAMED`, a dict from former dotted names to today's; both are understood. And
`IF_ABSENT`, from its own fields to the values that runs and checkpoints from before there were these settings
were trained with.

It may define `validate()`, raising `ValueError("<field> must be ..., got ...")`: it is called
once, on the final values. `__post_init__` may raise the same, but must derive nothing: it also runs on the
defaults and on the YAML's values, before the flags are known.
"""

import dataclasses
import json
import re
import sys
import types
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro
import yaml
from tyro import _errors as tyro_errors  # private, hence tyro's exact pin: the way to its complaints

from common import untrusted
from common.bounds import complaint
from common.errors import UserError, did_you_mean, reason, show
from common.flags import check_given_once, flags, given, key_of, rename, spell_out
from common.paths import REPOSITORY, expanded, in_repository

ALSO_CALLED = {  # names elsewhere -> the last part of the name here
    "learning_rate": "lr",
    "optimizer_lr": "lr",
    "optimizer_lr_backbone": "lr_backbone",
    "optimizer_weight_decay": "weight_decay",
    "hidden_dim": "dim_model",
    "hidden_size": "dim_model",
    "chunk_size": "horizon",
}
CONFIG_HELP = "YAML file of settings, read before the other flags"


def parse[Config](
    config_class: type[Config],
    argv: Sequence[str] | None = None,
    default_yaml: Path | str | None = None,
    description: str | None = None,
) -> Config:
    """Read a script's configuration: the defaults, then `--config FILE.yaml`, then the other flags.

    Args:
        config_class: dataclass as the module's docstring describes.
        argv: the words after the script's name; None takes them from `sys.argv`.
        default_yaml: the file read where no `--config` is given; None reads none.
        description: text above the flags in `--help`, such as the script's docstring.

    Raises:
        UserError: a missing or malformed file, an unknown key or flag, a value of a wrong type or impossible.
        SystemExit: code 0, after `--help`.
    """
    argv = rename(list(sys.argv[1:] if argv is None else argv), getattr(config_class, "RENAMED", {}))
    kinds = {"config": Path} | _kinds(config_class)
    argv = spell_out(argv, kinds)
    check_given_once(argv, kinds)
    path = config_path(argv, default_yaml)
    with tyro_errors.on_parse_error(lambda event: _reject(event, config_class, argv)):
        defaults = _build(config_class, load_yaml(path) if path else {}, source=f"{path}: ")

        def command_line(
            config: Annotated[Path | None, tyro.conf.arg(help=CONFIG_HELP)] = path,
            # tyro reads the annotation when it is called
            settings: Annotated[config_class, tyro.conf.arg(name="")] = defaults,  # pyright: ignore
        ):
            return settings

        try:
            config = tyro.cli(command_line, args=argv, description=description)
        except ValueError as error:  # tyro leaves those of the outermost __post_init__ to its caller
            raise UserError(_with_full_key(error, config_class)) from None
    return _finish(config)


def config_path(argv: Sequence[str] | None, default_yaml: Path | str | None) -> Path | None:
    """The file that `parse` reads: the one that `--config` names, else `default_yaml`."""

    def only_config(config: Path | None = Path(default_yaml) if default_yaml else None):
        return config

    def reject(event: tyro_errors.ParseErrorEvent) -> None:
        raise UserError("--config: expected the path of one YAML file, got nothing")

    with tyro_errors.on_parse_error(reject):
        args = list(sys.argv[1:] if argv is None else argv)
        path = tyro.cli(only_config, args=args, return_unknown_args=True, add_help=False)[0]
    return path and in_repository(path)


def read_first(key: str, argv: Sequence[str] | None, default_yaml: Path | str | None, default: str) -> str:
    """A setting that decides on the config class: its flag's value, else the YAML's, else `default`."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if typed := [words for flag, words in flags(argv) if key_of(flag) == key and words]:
        return " ".join(typed[-1])
    path = config_path(argv, default_yaml)
    value = settings_in(path).get(key) if path else None
    return default if value is None else str(value)


def settings_in(path: Path | str) -> dict[str, Any]:
    """What a YAML file sets, by dotted key.

    Raises:
        UserError: see `load_yaml`.
    """
    return dict(_flatten(load_yaml(path)))


def from_dict[Config](config_class: type[Config], values: dict[str, Any], source: str = "") -> Config:
    """Build a config from a nested mapping of differences from its defaults: YAML, JSON or `to_dict`.

    Args:
        config_class: as in `parse`.
        values: a list may stand for a tuple, a string for a path or a float (to YAML 1.1, 1e-4 is a string).
        source: where the values stood, to open an error with, such as `"config.yaml: "`.

    Raises:
        UserError: an unknown key, a value of a wrong type or impossible.
    """
    return _finish(_build(config_class, values, source), source)


def with_absent(values: dict[str, Any], config: Any) -> dict[str, Any]:
    """Saved settings, with what they lack filled in from `IF_ABSENT` of `config` and of what it nests."""
    nested = {
        field.name: with_absent(values[field.name], getattr(config, field.name))
        for field in dataclasses.fields(config)
        if dataclasses.is_dataclass(getattr(config, field.name)) and isinstance(values.get(field.name), dict)
    }
    return getattr(config, "IF_ABSENT", {}) | values | nested


def to_dict(config: Any) -> dict[str, Any]:
    """Every field as nested plain values that YAML and JSON can hold; `from_dict` is the way back."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def save_yaml(config: Any, path: Path | str) -> None:
    """Write every field, in the order of the dataclass, as a YAML file that `parse` reads."""
    untrusted.write_text(Path(path), yaml.safe_dump(to_dict(config), sort_keys=False))


def load_yaml(path: Path | str) -> dict[str, Any]:
    """Read a YAML file of settings; an empty one changes nothing.

    Raises:
        UserError: the file is missing, unreadable, malformed, or does not hold a mapping.
    """
    path = Path(path)
    try:
        values = untrusted.load_yaml(path)
    except FileNotFoundError:
        beside = [str(other) for other in sorted(path.parent.glob("[!.]*.yaml"))]
        beside = beside or [f"configs/{other.name}" for other in sorted(REPOSITORY.glob("configs/*.yaml"))]
        raise UserError(f"{path}: no such file{did_you_mean(str(path), beside)}") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: not valid YAML: {reason(error)}") from None
    if not isinstance(values, dict | None):
        raise UserError(f"{path}: expected lines of the form 'key: value', got {show(values)}")
    return values or {}


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What changed between two configs in `to_dict`'s form, a line each: `agent.lr: 0.0003 -> 0.0001`."""
    before, after = dict(_flatten(old)), dict(_flatten(new))
    return [
        f"{key}: {before.get(key, '(absent)')} -> {after.get(key, '(absent)')}"
        for key in before | after
        if key not in before or key not in after or before[key] != after[key]
    ]


def _build[Config](config_class: type[Config], values: dict[str, Any], source: str) -> Config:
    """The defaults with `values` put in: types checked, `validate()` left for when the flags are in too."""
    kinds, changes, spelled = _kinds(config_class), {}, {}
    renamed = getattr(config_class, "RENAMED", {})
    for name, value in _flatten(values, whole=[key for key, kind in kinds.items() if kind is dict]):
        key = name.replace("-", "_")
        key = renamed.get(key, key)
        if (other := spelled.setdefault(key, name)) != name or key in changes:
            spellings = f", as {other} and as {name}" if other != name else ""
            raise UserError(f"{source}{key} is given twice{spellings}: leave one out")
        if key in kinds:
            try:
                changes[key] = _convert(value, kinds[key])
            except ValueError:
                raise UserError(
                    f"{source}{key}: expected {_describe(kinds[key])}, got {show(value)}"
                ) from None
        elif not any(other.startswith(f"{key}.") for other in kinds):
            raise UserError(f"{source}unknown key {name}{_instead_of(key, config_class, kinds)}")
        elif value not in (None, {}):  # `agent:` with nothing but comments below it changes nothing
            raise UserError(f"{source}{key}: expected settings nested below it, got {show(value)}")
    return _replace(config_class(), changes, source)


def _replace(config: Any, changes: dict[str, Any], source: str, prefix: str = "") -> Any:
    """A copy of the nested config with the fields of these dotted names changed."""
    own = {}
    for field in dataclasses.fields(config):
        key, value = prefix + field.name, getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            own[field.name] = _replace(value, changes, source, f"{key}.")
        elif key in changes:
            own[field.name] = changes[key]
    try:
        return dataclasses.replace(config, **own)
    except ValueError as error:
        raise UserError(source + _with_full_key(error, type(config), prefix)) from None


def _finish[Config](config: Config, source: str = "") -> Config:
    """The final values: checked, and with the home in the place of `~` in paths."""
    values = dict(_flatten(dataclasses.asdict(config)))  # pyright: ignore[reportArgumentType]
    homes = {key: expanded(value) for key, value in values.items() if isinstance(value, Path)}
    config = _replace(config, {key: path for key, path in homes.items() if path != values[key]}, source)
    _validate(config, source)
    return config


def check_numbers(config_class: type, values: dict[str, Any], source: str = "") -> None:
    """Check numbers by the bounds of a config class's fields of the same names.

    Raises:
        UserError: one is out of bounds, or true or false in a number's place.
    """
    plain = get_type_hints(config_class)
    for name, kind in get_type_hints(config_class, include_extras=True).items():
        if said := complaint(value := values.get(name), kind):
            raise UserError(f"{source}{name} {said}")
        if isinstance(value, bool) and bool not in (plain[name], *get_args(plain[name])):
            raise UserError(f"{source}{name} must be {_describe(plain[name])}, got {str(value).lower()}")


def _validate(config: Any, source: str = "", prefix: str = "") -> None:
    """Call `validate()` of the config and of all in it; a ValueError names its field by the full key."""
    for field in dataclasses.fields(config):
        if dataclasses.is_dataclass(value := getattr(config, field.name)):
            _validate(value, source, f"{prefix}{field.name}.")
    check_numbers(type(config), vars(config), source + prefix)
    try:
        getattr(config, "validate", lambda: None)()
    except ValueError as error:
        raise UserError(source + _with_full_key(error, type(config), prefix)) from None


def _convert(value: Any, kind: Any) -> Any:
    """`value` as a field of type `kind` holds it; ValueError where it is of another type."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        for option in options:
            try:
                return _convert(value, option)
            except ValueError:
                continue
    elif origin is Literal:
        if any(value == option and type(value) is type(option) for option in options):
            return value
    elif origin in (tuple, list):
        if isinstance(value, tuple | list):
            each = options[:1] * len(value) if origin is list or options[-1] is Ellipsis else options
            return origin(_convert(item, option) for item, option in zip(value, each, strict=True))
    elif type(value) is kind:
        return value
    elif (kind is float and type(value) in (int, str)) or (kind is Path and type(value) is str):
        return kind(value)
    raise ValueError


def _reject(event: tyro_errors.ParseErrorEvent, config_class: type, argv: Sequence[str]) -> None:
    """Raise tyro's complaint as a UserError; a kind of complaint unknown here is left to tyro's own words."""
    kinds = {"config": Path} | _kinds(config_class)
    if isinstance(event, tyro_errors.UnrecognizedArgs):
        word = event.tokens[0]
        if not word.startswith("-"):
            raise UserError(
                f"unexpected {show(word)}: a setting is --FLAG VALUE, a bool is --FLAG or --no-FLAG"
            )
        negated = [re.sub(r"(\w+)$", r"no_\1", key) for key, kind in kinds.items() if kind is bool]
        instead = _instead_of(key_of(word), config_class, [*kinds, *negated], flag=True)
        raise UserError(f"unknown flag {word}{instead}")
    if argument := getattr(event, "argument", None):
        flag = argument.lowered.name_or_flags[-1]
        raise UserError(f"{flag}: expected {_describe(kinds[key_of(flag)])}, got {given(flag, argv)}")
    if isinstance(event, tyro_errors.InstantiationFailure):
        raise UserError(_with_full_key(event.message, config_class))


def _with_full_key(error: ValueError | str, config_class: type, prefix: str = "") -> str:
    """The message of a config class's own check, which opens with a field's name, with that name in full."""
    name, space, rest = str(error).partition(" ")
    keys = [prefix + key for key in _kinds(config_class) if key.rpartition(".")[2] == name]
    if len(keys) == 1:
        return keys[0] + space + rest
    return f"{prefix.rstrip('.')}: {error}" if prefix else str(error)


def _kinds(config_class: type, prefix: str = "") -> dict[str, Any]:
    """The type of every setting by its dotted key, those of nested config classes included."""
    kinds, hints = {}, get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        key, kind = prefix + field.name, hints[field.name]
        nested = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        kinds |= _kinds(kind, f"{key}.") if nested else {key: kind}
    return kinds


def _flatten(
    values: dict[str, Any], prefix: str = "", whole: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, dict) and value and key not in whole:
            yield from _flatten(value, f"{key}.", whole)
        else:
            yield key, value


def _instead_of(key: str, config_class: type, keys: Collection[str], flag: bool = False) -> str:
    """The end of a sentence on an unknown setting: what may have been meant, or where it belongs."""
    if hint := getattr(config_class, "unknown_setting", lambda key: "")(key):
        return f"; {hint}"
    meant = ALSO_CALLED.get(key.rpartition(".")[2])
    named = [other for other in keys if other.rpartition(".")[2] == meant]
    if len(named) == 1:
        key, keys = named[0], named
    if not flag:
        return did_you_mean(key, keys)
    return did_you_mean(key.replace("_", "-"), [other.replace("_", "-") for other in keys], "--")


def _describe(kind: Any) -> str:
    """A type in words for the person at the prompt."""
    origin, options = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_describe, options))
    if origin is Literal:
        return "one of " + ", ".join(map(str, options))
    if origin in (tuple, list):
        return "a list of " + ", ".join(_describe(option) for option in options if option is not Ellipsis)
    return {bool: "true or false", types.NoneType: "None"}.get(kind) or str(kind.__name__)
