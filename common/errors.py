"""Mistakes of the person at the prompt: one line instead of a traceback."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from common.start import check_where_one_is, hearing_ctrl_c

MAX_CHARACTERS = 300  # of a sentence on stderr


class UserError(Exception):
    """Something is wrong with what the person at the prompt gave: a path, a key, a value, a file.

    The message is one sentence that says what was wrong, where, and what would be right.
    """


def reason(error: BaseException) -> str:
    """What an exception says, for the end of a sentence: one line of bearable length."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def report_user_errors() -> Iterator[None]:
    """Print a `UserError` as `error: ...` on stderr and exit with code 2.

    A closed pipe (`| head`) ends the script silently; Ctrl-C, a full disk and a name that is not UTF-8 with
    one line. Nothing else is caught. Output is line-buffered, also into a file, so that a log is up to date,
    and what its encoding does not have is written as an escape.

    Decorates a script's `main` (`@report_user_errors()`) or wraps a block (`with report_user_errors():`).

    Raises:
        SystemExit: code 2, in place of a `UserError`, a full disk or such a name; code 130 after Ctrl-C;
            code 141 after a closed pipe.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(line_buffering=True, errors="backslashreplace")
    try:
        with hearing_ctrl_c():
            check_where_one_is()
            yield
            if sys.stdout:
                sys.stdout.flush()
    except UserError as error:
        _say(f"error: {error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        _say("interrupted")
        raise SystemExit(130) from None
    except BrokenPipeError:
        _silence(sys.stdout)
        raise SystemExit(141) from None
    except UnicodeEncodeError as error:
        _say(f"error: {error.object!r:.200}: this name is not UTF-8")
        raise SystemExit(2) from None
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = error.filename or "the disk, or where the output goes,"
        _say(f"error: {where} has no space left")
        if not error.filename:
            _silence(sys.stdout)
        raise SystemExit(2) from None


def _say(line: str) -> None:
    """One line on stderr, unless that goes to the full disk too. What is too long loses its middle."""
    line = " ".join(line.splitlines())
    if len(line) > MAX_CHARACTERS:
        line = f"{line[: MAX_CHARACTERS // 2]} ... {line[5 - MAX_CHARACTERS // 2 :]}"
    try:
        print(line, file=sys.stderr)
    except OSError:
        _silence(sys.stderr)


def _silence(stream: TextIO) -> None:
    """Else the last flush fails as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
