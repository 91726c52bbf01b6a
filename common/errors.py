"""Mistakes of the person at the prompt: one line instead of a traceback."""

import errno
import io
import os
import reprlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

LONGEST_LINE = 300  # characters that a person reads
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


def shorten(text: str, length: int) -> str:
    """The beginning and the end of a text, so many characters in all."""
    end = length // 3
    return text if len(text) <= length else f"{text[: length - end - 5]} ... {text[-end:]}"


def one_line(text: str) -> str:
    """A text for the terminal: without line breaks and what would steer it, and of bearable length."""
    visible = [
        c if c.isprintable() else c.encode("unicode_escape").decode() for c in " ".join(text.splitlines())
    ]
    return shorten("".join(visible), LONGEST_LINE)


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Print a `UserError` as `error: ...` on stderr and exit with code 2.

    A closed pipe (`| head`) ends the script silently, Ctrl-C, a full disk and a full memory with one line.
    Nothing else is caught. Output is line-buffered, also into a file, so that a log is up to date.

    Decorates a script's `main` (`@report_user_errors()`) or wraps a block (`with report_user_errors():`).

    Raises:
        SystemExit: code 2, in place of a `UserError`, a full disk or memory; code 130 after Ctrl-C; code 141
            after a closed pipe.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    try:
        yield
        sys.stdout.flush()
    except UserError as error:
        _say(f"error: {error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        _say("interrupted")
        raise SystemExit(130) from None
    except BrokenPipeError:
        _close_stdout()
        raise SystemExit(141) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "the disk, or where the output goes,"
        _say(f"error: {where} has no space left")
        if not error.filename:
            _close_stdout()
        raise SystemExit(2) from None
    except (MemoryError, RuntimeError) as error:  # PyTorch's is a RuntimeError
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        _say(f"error: the memory is full ({reason(error)}): try a smaller batch, network or buffer")
        raise SystemExit(2) from None


def _say(line: str) -> None:
    """On stderr, unless that goes to the full disk too."""
    with suppress(OSError):
        print(one_line(line), file=sys.stderr)


def _close_stdout() -> None:
    """Else the last flush fails as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
