"""Tasks by name: `TASK` of `envs/<name>.py` or of `envs/<name>/task.py` (`envs.interfaces.Task`).

A task is imported when it is asked for.
"""

from dataclasses import field, make_dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from common.errors import UserError
from envs.interfaces import Task

DEFAULT = "pusht"


def names() -> dict[str, str]:
    """Every task's name and its module."""
    here = Path(__file__).parent
    modules = {file.stem: (f"envs.{file.stem}", file) for file in here.glob("*.py")}
    modules |= {file.parent.name: (f"envs.{file.parent.name}.task", file) for file in here.glob("*/task.py")}
    return {
        name: module
        for name, (module, file) in sorted(modules.items())
        if "\nTASK = " in file.read_text(encoding="utf-8")
    }


def task_class(name: str) -> type[Task]:
    """The configuration class of a task.

    Raises:
        UserError: there is no such task, or a package that it needs is not installed.
    """
    modules = names()
    if name not in modules:
        (nearest,) = get_close_matches(name, modules, n=1, cutoff=0.0)
        raise UserError(f"task must be one of {', '.join(modules)}, got {name!r}; did you mean {nearest}?")
    try:
        return import_module(modules[name]).TASK
    except ImportError as error:
        raise UserError(f"task {name} needs a package that is not installed ({error})") from None


def current_config(config: dict[str, Any]) -> dict[str, Any]:
    """A policy's `config.json` in today's form; from before there were several tasks it has no `task`.

    Raises:
        KeyError: a setting is missing.
    """
    if "task" in config:
        return config
    from envs.pusht.task import PushT  # the only task at that time

    return PushT.upgrade(config)


def with_task[Config](config_class: type[Config], name: str) -> type[Config]:
    """A script's config class with this task's settings as its `env`."""
    task = task_class(name)

    def unknown_setting(key: str) -> str:
        """Which other task has a setting, in words."""
        part, _, setting = key.partition(".")
        others = [other for other in names() if other != name and part == "env"]
        owners = [other for other in others if hasattr(task_class(other), setting)]
        return f"it is a setting of task {owners[0]}, and this is {name}" if owners else ""

    return make_dataclass(
        config_class.__name__,
        [("task", str, name), ("env", task, field(default_factory=task))],
        bases=(config_class,),
        namespace={"__doc__": config_class.__doc__, "unknown_setting": staticmethod(unknown_setting)},
        frozen=True,
        module=config_class.__module__,  # where --help finds the comments of the fields
    )
