"""Errors for the person at the prompt: one line instead of a traceback."""

import errno
import io
import os
import re
import reprlib
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from difflib import SequenceMatcher
from typing import Any, TextIO

from common.start import check_working_directory, interrupts_raise

LONGEST_LINE = 300  # characters that a person reads
LEAST_LIKENESS = 0.5  # of two names, one of which may have been meant by the other
OUT_OF_MEMORY = ("can't allocate memory", "out of memory", "not enough memory")  # PyTorch's words


class UserError(Exception):
    """Something is wrong with what the person at the prompt gave: a path, a key, a value, a file.

    The message is one sentence that says what was wrong, where, and what would be right.
    """


def reason(error: BaseException) -> str:
    """What an exception says, for the end of a sentence: one line of bearable length."""
    return shorten(" ".join(str(error).split()), 160) or type(error).__name__


class _Short(reprlib.Repr):
    """A `repr` that looks at the first items only, however many there are and whatever they hold."""

    def repr_int(self, x: int, level: int) -> str:
        digits = int(x.bit_length() * 0.30103) + 1
        return repr(x) if digits <= 40 else f"an integer of {digits} digits"


def show(value: Any) -> str:
    """A value that somebody gave, for a sentence: at most 60 characters."""
    short = _Short(maxlevel=3, maxdict=8, maxlist=16, maxtuple=16, maxset=8, maxstring=60, maxother=60)
    return shorten(short.repr(value), 60)


def did_you_mean(name: str, candidates: Collection[str], prefix: str = "") -> str:
    """The end of a sentence: `; did you mean NAME?`, or nothing where no candidate is like the name.

    Names are dotted settings or paths. `lr` is nearer `agent.lr` than `r`. A candidate is like a name where
    their last parts are, or share a word, as `learning_lr` and `lr` do, or where it is what the name is in.

    Args:
        name: that does not exist.
        candidates: that do.
        prefix: of a candidate in the sentence.
    """
    name = name[:200]
    *above, own = _parts(name)

    def likeness(candidate: str) -> float:
        last = SequenceMatcher(None, own, _parts(candidate)[-1]).ratio()
        return last + SequenceMatcher(None, name, candidate).ratio()

    nearest = max(candidates, key=likeness, default="")
    last = _parts(nearest)[-1]
    share = bool(set(re.split("[_-]", own)) & set(re.split("[_-]", last)))
    alike = share or last in above or SequenceMatcher(None, own, last).ratio() >= LEAST_LIKENESS
    return f"; did you mean {prefix}{nearest}?" if nearest and alike else ""


def _parts(name: str) -> list[str]:
    return re.split("[./]", name.removesuffix(".yaml"))


def shorten(text: str, length: int) -> str:
    """The beginning and the end of a text, so many characters in all."""
    end = length // 3
    return text if len(text) <= length else f"{text[: length - end - 5]} ... {text[-end:]}"


def one_line(text: str) -> str:
    """A text for the terminal: without line breaks and what would steer it, and of bearable length."""
    return shorten(printable(" ".join(text.splitlines())), LONGEST_LINE)


def printable(text: str) -> str:
    """A text with escapes in place of line breaks and of what would steer a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Print a `UserError` as `error: ...` on stderr and exit with code 2.

    A closed pipe (`| head`) ends the script silently; Ctrl-C, a full disk, a full memory, a file that may not
    be opened and a name that is not UTF-8 with one line. Nothing else is caught. Output is line-buffered, in
    a file too, so that a log is up to date, and what its encoding does not have is written as an escape.

    Decorates a script's `main` (`@report_user_errors()`) or wraps a block (`with report_user_errors():`).

    Raises:
        SystemExit: code 2, in place of a `UserError`, a full disk or memory, such a file or name; code 130
            after Ctrl-C; code 141 after a closed pipe.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        with interrupts_raise():
            check_working_directory()
            yield
            if sys.stdout:
                sys.stdout.flush()
    except BaseException as error:
        code, line = _ending(error)
        if code is None:
            raise
        if line:
            _say(line)
        if isinstance(error, OSError) and not error.filename:
            _silence(sys.stdout)
        raise SystemExit(code) from None


def _ending(error: BaseException) -> tuple[int | None, str]:
    """Exit code and last line of a script that ends like this; no code for what is none of these."""
    match error:
        case UserError():
            return 2, f"error: {error}"
        case KeyboardInterrupt():
            return 130, "interrupted"
        case BrokenPipeError():
            return 141, ""
        case UnicodeEncodeError():
            return 2, f"error: {error.object!r:.200}: this name is not UTF-8"
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            return 2, f"error: {error.filename or 'the disk, or where the output goes,'} has no space left"
        case PermissionError(filename=str(name)):
            return 2, f"error: {name}: {error.strerror}"
    # PyTorch's is a RuntimeError
    full = isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)
    if full or isinstance(error, MemoryError):
        return 2, f"error: the memory is full ({reason(error)}): try a smaller batch, network or buffer"
    return None, ""


def _say(line: str) -> None:
    """One line on stderr, unless that goes to the full disk too."""
    try:
        print(one_line(line), file=sys.stderr)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Else the last flush fails as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
