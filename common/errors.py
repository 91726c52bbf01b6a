"""Mistakes of the person at the prompt: one line instead of a traceback."""

import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


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

    A closed pipe (`| head`) ends the script silently, Ctrl-C and a full disk with one line. Nothing else is
    caught. Output is line-buffered, also into a file, so that a log is up to date.

    Decorates a script's `main` (`@report_user_errors()`) or wraps a block (`with report_user_errors():`).

    Raises:
        SystemExit: code 2, in place of a `UserError` or of a full disk; code 130 after Ctrl-C; code 141
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


def _say(line: str) -> None:
    """On stderr, unless that goes to the full disk too."""
    with suppress(OSError):
        print(line, file=sys.stderr)


def _close_stdout() -> None:
    """Else the last flush fails as well."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
