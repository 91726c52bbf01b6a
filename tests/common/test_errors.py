import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.errors import UserError, did_you_mean, report_user_errors, show

FULL = Path("/dev/full")

SCRIPT = """
from common.errors import UserError, report_user_errors

@report_user_errors()
def main():
    raise {error}

main()
"""


def run(error: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", SCRIPT.format(error=error)], capture_output=True, text=True)


def test_user_error_is_one_line_and_exit_code_2():
    done = run("UserError('logs/nothing: no such run')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: logs/nothing: no such run\n")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (UserError(f"path: {'x' * 10**6} did you mean y?"), "did you mean y?"),
        (UserError("two\nlines, \x1b[31m red and \udcff"), r"two lines, \x1b[31m red and \udcff"),
        (PermissionError(13, "Permission denied", "logs/x"), "logs/x: Permission denied"),
        (MemoryError("Unable to allocate 3 GiB"), "the memory is full (Unable to allocate 3 GiB)"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 4 bytes"), "the memory is full"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 3 GiB"), "the memory is full"),
    ],
)
def test_every_sentence_is_one_line_of_bearable_length(error, words, capsys):
    with pytest.raises(SystemExit) as exit_, report_user_errors():
        raise error
    (line,) = capsys.readouterr().err.splitlines()
    assert exit_.value.code == 2 and line.startswith("error: ") and len(line) <= 300
    assert words in line


def test_a_value_is_shown_without_being_written_out():
    loop: list = [{"a": 1}]
    loop.append(loop)

    class Endless(dict):
        def __repr__(self):
            raise AssertionError

    for value in (
        loop,
        [["x" * 99] * 99] * 10**6,
        {i: {i: {i: {i: i}}} for i in range(10**5)},
        "y" * 10**7,
        Endless(),
    ):
        assert len(show(value)) <= 60
    for value in (1, -2.5, "x", None, True, [64, 1.5], {}, {"a": [1]}, (), {1}):
        assert show(value) == repr(value)
    assert show(10**5000) == "an integer of 5001 digits"


@pytest.mark.parametrize("error", ["ValueError('a bug')", "KeyError('a bug')", "OSError('a bug')"])
def test_a_bug_keeps_its_traceback(error):
    done = run(error)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback") and "a bug" in done.stderr


def test_other_exits_pass_through():
    assert run("SystemExit(7)").returncode == 7


def test_ctrl_c_is_a_word_and_exit_code_130():
    done = run("KeyboardInterrupt")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_a_full_disk_is_a_sentence():
    done = run("OSError(28, 'No space left on device', 'data/x')")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: data/x has no space left\n")


@pytest.mark.skipif(not FULL.exists(), reason="only Linux has such a file")
def test_so_is_output_into_a_full_one():
    script = SCRIPT.replace("raise {error}", "print('line')")
    with FULL.open("w") as full:
        done = subprocess.run([sys.executable, "-c", script], stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: the disk, or where the output goes, has no space left\n"


def test_a_reader_that_has_seen_enough_ends_it_silently():
    script = SCRIPT.replace("raise {error}", "print('line\\n' * 100_000)")
    command = f'{sys.executable} -c "$SCRIPT" | head -n 1; echo ${{PIPESTATUS[0]}}'
    done = subprocess.run(
        ["bash", "-c", command],
        env={"SCRIPT": script, "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert (done.stdout, done.stderr) == ("line\n141\n", "")


def test_a_log_shows_each_line_at_once():
    script = SCRIPT.replace("raise {error}", "print('line'); __import__('os')._exit(0)")  # flushes nothing
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "line\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lr", "; did you mean agent.lr?"),
        ("seeed", "; did you mean seed?"),
        ("agnt.gamma", "; did you mean agent.gamma?"),
        ("seed.a", "; did you mean seed?"),
        ("configs/sac_puhst.yaml", "; did you mean configs/sac_pusht.yaml?"),
        ("xyzzy", ""),
        ("agent.xyzzy", ""),
        ("configs/xyzzy.yaml", ""),
        ("", ""),
        ("s" * 10**6, ""),
    ],
)
def test_only_a_name_that_is_alike_is_proposed(name, words):
    known = ["seed", "agent.lr", "agent.gamma", "configs/sac_pusht.yaml", "configs/demo.yaml"]
    assert did_you_mean(name, known) == words
    assert did_you_mean(name, []) == ""
