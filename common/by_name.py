"""Modules chosen by name in a configuration, tasks and kinds of policies, imported when they are chosen."""

from collections.abc import Iterable
from dataclasses import field, make_dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from common.errors import UserError, did_you_mean, reason, show

EXTRAS = {"transformers": "make setup-vla"}  # packages that come with others, and what installs them


def modules_with(constant: str, files: Iterable[tuple[str, str, Path]]) -> dict[str, str]:
    """Of (name, module, file), the names and modules whose file assigns the constant."""
    return {
        name: module
        for name, module, file in sorted(files)
        if f"\n{constant} = " in file.read_text(encoding="utf-8")
    }


def choose(setting: str, name: str, modules: dict[str, str], constant: str) -> Any:
    """The constant of the module of this name.

    Args:
        setting: that chooses it, for sentences.
        name: its value.
        modules: by name, as from `modules_with`.
        constant: of the module.

    Raises:
        UserError: there is none, it cannot be imported, or a package that it needs is not installed.
    """
    if name not in modules:
        known = f"{setting} must be one of {', '.join(modules)}"
        raise UserError(f"{known}, got {show(name)}{did_you_mean(name, modules)}")
    try:
        return getattr(import_module(modules[name]), constant)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if (Path(__file__).parents[1] / package).exists():  # our own: a mistake in that module
            raise
        install = EXTRAS.get(package, f"pip install {package}")
        raise UserError(
            f"{setting} {name} needs the package {package}, which is not installed: {install}"
        ) from None
    except SyntaxError as error:
        raise UserError(f"{error.filename}, line {error.lineno}: {error.msg}") from None
    except ImportError as error:
        raise UserError(f"{setting} {name} cannot be imported: {reason(error)}") from None


def with_settings[Config](
    config_class: type[Config], settings: dict[str, Any], namespace: dict[str, Any] | None = None
) -> type[Config]:
    """A script's config class with other classes of nested settings, or other defaults, for these fields.

    Args:
        config_class: a frozen dataclass.
        settings: by field: a dataclass, whose defaults hold, or a default value.
        namespace: what the class has besides.
    """
    kinds = get_type_hints(config_class, include_extras=True)  # with their bounds
    changed = [
        (name, value, field(default_factory=value))
        if isinstance(value, type)
        else (name, kinds[name], field(default=value))
        for name, value in settings.items()
    ]
    return make_dataclass(
        config_class.__name__,
        changed,
        bases=(config_class,),
        namespace={"__doc__": config_class.__doc__} | (namespace or {}),
        frozen=True,
        module=config_class.__module__,  # where --help finds the comments of the fields
    )
