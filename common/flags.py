"""The words of a command line: its flags, and the values that each is given."""

import re
import shlex
from collections.abc import Iterator, Sequence
from itertools import takewhile
from typing import Any

from common.errors import UserError, show


def flags(argv: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each flag of a command line, and the words that it is given."""
    for at, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            following = takewhile(lambda word: not word.startswith("--"), argv[at + 1 :])
            yield flag, [value] if equals else list(following)


def typed(flag: str, value: object) -> str:
    """A flag and its value as one types them in a shell: a space, a quote or a dash may be in the value."""
    word = shlex.quote(str(value))
    return f"{flag}={word}" if str(value).startswith("-") else f"{flag} {word}"


def key_of(flag: str) -> str:
    """The setting's dotted name."""
    return flag.partition("=")[0].lstrip("-").replace("-", "_")


def given(flag: str, argv: Sequence[str]) -> str:
    """What the command line gave `flag`, for an error message."""
    words = [words for name, words in flags(argv) if key_of(name) == key_of(flag)][-1]
    return show(" ".join(words)) if words else "nothing"


def rename(argv: Sequence[str], renamed: dict[str, str]) -> list[str]:
    """The words with today's flags in place of former ones.

    Raises:
        UserError: both are given.
    """
    words = []
    given = {key_of(word) for word in argv if word.startswith("--")}
    for word in argv:
        name, equals, value = word.partition("=")
        if word.startswith("--") and (new := renamed.get(key_of(name))):
            if new in given:
                raise UserError(f"{name} is the former name of --{new.replace('_', '-')}, which is given too")
            word = f"--{new.replace('_', '-')}{equals}{value}"
        words.append(word)
    return words


def spell_out(argv: Sequence[str], kinds: dict[str, Any]) -> list[str]:
    """The words with each `bool | None` as tyro takes it: `--FLAG True` for `--FLAG` and for `--FLAG true`.

    Args:
        argv: as typed.
        kinds: type of every setting by its key.
    """
    words, optional = [], False  # is the flag before such a one?
    for at, word in enumerate(argv):
        flag, equals, value = word.partition("=")
        if word.startswith("--"):
            negated = key_of(flag) not in kinds
            positive = re.sub(r"(\.|^--)no-(?=[\w-]+$)", r"\1", flag) if negated else flag
            optional = kinds.get(key_of(positive)) == bool | None
            if optional and not equals and (at + 1 == len(argv) or argv[at + 1].startswith("--")):
                flag, equals, value = positive, "=", str(not negated)
            word = flag + equals + (_as_python(value) if optional else value)
        words.append(_as_python(word) if optional else word)
    return words


def _as_python(word: str) -> str:
    return word.title() if word.lower() in ("true", "false", "none") else word


def check_given_once(argv: Sequence[str], kinds: dict[str, Any]) -> None:
    """Refuse a setting with several values, of which tyro would take the last.

    Args:
        argv: as typed.
        kinds: type of every setting by its key.

    Raises:
        UserError: there is one.
    """
    first_of: dict[str, tuple[str, list[str]]] = {}
    for flag, words in flags(argv):
        key = key_of(flag)
        positive = re.sub(r"(^|\.)no_(\w+)$", r"\1\2", key)
        negated = key not in kinds and kinds.get(positive) is bool
        first, others = first_of.setdefault(positive if negated else key, (flag, words))
        if others != words or (key_of(first) != key):
            both = " and ".join(" ".join([name, *said]) for name, said in ((first, others), (flag, words)))
            raise UserError(f"{show(both)[1:-1]} contradict each other: leave one out")
