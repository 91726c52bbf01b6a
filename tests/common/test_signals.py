import os
import pty
import signal
import subprocess
import threading
from itertools import product

import pytest

from common.signals import STOP_SIGNALS, StopRequest, blocking_stop_signals, deferring_stop_signals

ONCE = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def handlers():
    """None is left behind."""
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    yield
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


@pytest.mark.parametrize(("first", "second"), list(product(STOP_SIGNALS, ONCE)))
def test_the_first_signal_asks_and_the_second_interrupts(first, second, capfd):
    """A closing terminal's SIGHUP counts for nothing here."""
    with StopRequest() as stop:
        assert not stop()
        signal.raise_signal(first)
        assert stop()
        assert "stopping after this step" in capfd.readouterr().err
        signal.raise_signal(signal.SIGHUP)
        if first == signal.SIGHUP:
            signal.raise_signal(second)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(second)


def test_nohup_keeps_its_meaning():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
        assert not stop()
        with deferring_stop_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_short_block_is_not_disturbed(number):
    with StopRequest() as stop:
        with deferring_stop_signals():
            signal.raise_signal(number)
            assert not stop()
        assert stop()


def test_a_thread_other_than_the_first_goes_without_signals():
    done = []

    def work():
        with StopRequest() as stop, deferring_stop_signals():
            done.append(stop())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done == [False]


def test_a_terminal_that_is_gone_ends_nothing():
    """Its lines fail from then on."""
    terminal, ours = pty.openpty()
    kept = [os.dup(descriptor) for descriptor in (1, 2)]
    try:
        for descriptor in (1, 2):
            os.dup2(ours, descriptor)
        os.close(terminal)
        with StopRequest():
            with pytest.raises(OSError, match="Input/output"):
                os.write(1, b"a line")
            signal.raise_signal(signal.SIGHUP)
            for descriptor in (1, 2):
                os.write(descriptor, b"a line")
    finally:
        for descriptor, before in zip((1, 2), kept, strict=True):
            os.dup2(before, descriptor)
            os.close(before)
        os.close(ours)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_children_hear_nothing(number):
    heard = []
    before = signal.signal(number, lambda *_: heard.append(number))
    try:
        with blocking_stop_signals():
            child = subprocess.Popen(["sleep", "600"])
            signal.pthread_kill(threading.get_ident(), number)  # a library's thread would not wait with it
            assert not heard
        assert heard
        child.send_signal(number)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(timeout=0.1)
    finally:
        signal.signal(number, before)
        child.kill()
        child.wait()
