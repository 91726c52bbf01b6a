"""Tasks by name: `TASK` of `envs/<name>.py` or of `envs/<name>/task.py` (`envs.interfaces.Task`).

A task is imported when it is asked for.
"""

from contextlib import suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from common.by_name import choose, modules_with, with_settings
from common.errors import UserError
from envs.interfaces import Task

DEFAULT = "pusht"
FORMER = "pusht"  # of files that name no task, from when there was one


def names() -> dict[str, str]:
    """Every task's name and its module."""
    here = Path(__file__).parent
    files = [(file.stem, f"envs.{file.stem}", file) for file in here.glob("*.py")]
    packages = [(file.parent.name, f"envs.{file.parent.name}.task", file) for file in here.glob("*/task.py")]
    return modules_with("TASK", files + packages)


def task_class(name: str) -> type[Task]:
    """The configuration class of a task.

    Raises:
        UserError: there is no such task, it cannot be imported, or a package that it needs is not installed.
    """
    known = names()
    files = {file.stem: file for file in Path(__file__).parent.glob("*.py")}
    if name not in known and name in files:
        raise UserError(f"{files[name]}: no task, because it lacks the line TASK = and its class")
    return choose("task", name, known, "TASK")


def current_config(config: dict[str, Any]) -> dict[str, Any]:
    """A policy's `config.json` in today's form; from before there were several tasks it has no `task`.

    Raises:
        KeyError: a setting is missing.
    """
    if "task" in config or "env" in config:
        return config
    from envs.pusht.task import PushT  # the only task at that time

    return PushT.upgrade(config)


def with_task[Config](config_class: type[Config], name: str) -> type[Config]:
    """A script's config class with this task's settings as its `env`."""
    task = task_class(name)

    def unknown_setting(key: str) -> str:
        """Which other task has a setting, in words."""
        part, _, setting = key.partition(".")
        for other in names() if part == "env" else ():
            with suppress(UserError):  # one whose package is not installed
                if other != name and setting.removeprefix("no_") in _settings(task_class(other)):
                    return f"it is a setting of task {other}, and this is {name}"
        return ""

    settings = {"task": name, "env": task}
    return with_settings(config_class, settings, {"unknown_setting": staticmethod(unknown_setting)})


def _settings(task: Any) -> set[str]:
    return {field.name for field in fields(task)}
