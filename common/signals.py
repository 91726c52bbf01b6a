"""Signals that ask a process to stop: Ctrl-C, SIGTERM, and SIGHUP of a terminal that closes."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

HANGUP = getattr(signal, "SIGHUP", None)  # the terminal closes; Windows has none
STOP_SIGNALS = [number for number in (signal.SIGINT, signal.SIGTERM, HANGUP) if number is not None]


@contextmanager
def handling_stop_signals(handler: Callable[[int, Any], None]) -> Iterator[None]:
    """Within this block `handler` is called with the number of each signal that asks to stop.

    A SIGHUP that is ignored, by `nohup`, stays so. Python lets only the main thread handle signals.
    """
    previous = {}
    if threading.current_thread() is threading.main_thread():
        heard = [n for n in STOP_SIGNALS if n != HANGUP or signal.getsignal(n) != signal.SIG_IGN]
        previous = {number: signal.signal(number, handler) for number in heard}
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


@contextmanager
def deferring_stop_signals() -> Iterator[None]:
    """Defer Ctrl-C, SIGTERM and SIGHUP to the end of this short block."""
    held: list[int] = []
    try:
        with handling_stop_signals(lambda number, _: held.append(number)):
            yield
    finally:
        for number in held:
            signal.raise_signal(number)


@contextmanager
def blocking_stop_signals() -> Iterator[None]:
    """Processes started in this short block never get these signals; this process gets them after it.

    Ctrl-C goes to all processes of a terminal, and this one decides when the others end.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class StopRequest:
    """The first Ctrl-C or SIGTERM sets a flag that the loop polls; a second one interrupts at once.

    SIGHUP only sets the flag: a terminal that closes may send several, and its shell a SIGTERM too.

    Args:
        after: what the loop will still do, for the person who waits.

    Example:
        with StopRequest() as stop:
            trainer.train(logger, stop)
    """

    def __init__(self, after: str = "this step or evaluation, to save") -> None:
        self.after = after
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None

    def __enter__(self) -> "StopRequest":
        self._handling = handling_stop_signals(self._note)
        self._handling.__enter__()
        return self

    def __exit__(self, *_) -> None:
        self._handling.__exit__(None, None, None)

    def _note(self, number: int, _frame: Any) -> None:
        if number == HANGUP:
            _leave_terminal()
        elif self.signal not in (None, HANGUP):
            raise KeyboardInterrupt
        if number != HANGUP or self.signal is None:
            self.signal = number
        with suppress(OSError):  # print may be interrupted
            os.write(2, f"\nstopping after {self.after}; Ctrl-C again stops at once\n".encode())


def _leave_terminal() -> None:
    """Send output to /dev/null where the terminal is gone, else the next line ends the script."""
    for descriptor in (1, 2):
        try:
            os.write(descriptor, b"\n")
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
