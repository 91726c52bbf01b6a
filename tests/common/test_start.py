"""What a script's first import takes care of; the scripts are started with `--help`."""

import os
import platform
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from common import start

ROOT = Path(start.__file__).parents[1]
NOBODY = 12_345  # has no name and no home


def python(code: str, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=60, **options)


def home(folder: Path, **changes: str) -> dict[str, str]:
    variables = {*start.unwritable_caches(), "NUMBA_CACHE_DIR", "HF_HOME", "XDG_CACHE_HOME", "TORCH_HOME"}
    kept = {name: value for name, value in os.environ.items() if name not in variables}
    return kept | {"HOME": str(folder), "TMPDIR": str(folder.parent)} | changes


SHOW = "import os; from common import start; print(*sorted(set(os.environ) - before))"
BEFORE = "import os; before = set(os.environ)\n"


def test_where_everything_has_its_place_nothing_is_moved(tmp_path):
    assert python(BEFORE + SHOW, env=home(tmp_path)).stdout == "\n"


def test_a_home_that_cannot_be_written_keeps_what_was_fetched(tmp_path):
    (tmp_path / "home").touch()  # not even root can make a folder there
    moved = python(BEFORE + SHOW, env=home(tmp_path / "home")).stdout.split()
    assert {"HF_HOME", "TORCH_HOME", "HF_DATASETS_CACHE", "MPLCONFIGDIR", "TRITON_CACHE_DIR"} <= set(moved)

    hub = tmp_path / "hub"
    hub.mkdir()
    (hub / "datasets").touch()
    moved = python(BEFORE + SHOW, env=home(tmp_path, HF_HOME=str(hub))).stdout.split()
    assert moved == ["HF_DATASETS_CACHE"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_user_without_name_and_home_has_caches_of_its_own():
    code = f"""
import getpass, os
from common import start
for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
    os.environ.pop(name, None)
os.environ["HOME"] = "/nonexistent"
os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})
start.find_caches()
print(getpass.getuser(), os.environ["NUMBA_CACHE_DIR"])
"""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        done = python(code, env=home(Path(folder) / "home"))
        own = Path(folder) / f"caches_of_uid_{NOBODY}"
        assert done.stdout == f"uid_{NOBODY} {own / 'numba_cache_dir'}\n", done.stderr
        assert own.stat().st_uid == NOBODY and own.stat().st_mode & 0o77 == 0


def test_a_cache_that_others_can_write_is_not_used(tmp_path, monkeypatch):
    """Numba executes what is in there."""
    monkeypatch.setattr(start.tempfile, "tempdir", str(tmp_path))
    ours = start._own_temporary_folder()
    assert start._own_temporary_folder() == ours and ours.parent == tmp_path
    ours.chmod(0o777)
    assert start._own_temporary_folder() != ours
    ours.rmdir()
    ours.symlink_to(tmp_path, target_is_directory=True)
    assert start._own_temporary_folder() not in (ours, tmp_path)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_files_do_not_take_the_place_of_closed_streams(closed, tmp_path):
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from common.errors import UserError, report_user_errors
with open({str(tmp_path / "file")!r}, "wb", buffering=0) as file, report_user_errors():
    file.write(str(file.fileno()).encode())
    print("out"); print("error", file=sys.stderr)
"""
    done = subprocess.run(["bash", "-c", f'{sys.executable} -c "$CODE" {closed}'], env={"CODE": code})
    assert done.returncode == 0
    assert int((tmp_path / "file").read_text()) > 2


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_name_can_be_shown(encoding):
    code = "from common.errors import UserError, report_user_errors\nwith report_user_errors():\n"
    name = "d\u00fc 数据 \udcff"
    done = python(
        f"{code} print({name!r}); raise UserError({name!r})", env=os.environ | {"PYTHONIOENCODING": encoding}
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr and done.stderr.startswith("error: d")


def test_a_name_that_is_not_utf8_is_a_sentence(tmp_path):
    code = "from common.errors import report_user_errors\nwith report_user_errors():\n"
    done = python(f"{code} open({str(tmp_path / 'x')!r}, 'w', encoding='utf-8').write('a\\udcff')")
    assert (done.returncode, done.stderr) == (2, r"error: 'a\udcff': this name is not UTF-8" + "\n")


@pytest.mark.slow
def test_names_are_utf8_in_any_locale():
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, str(ROOT / "evaluate.py"), "--policy", "数据"]
    done = subprocess.run(command, capture_output=True, env=environment)
    assert done.returncode == 2
    assert done.stderr.decode("utf-8").startswith("error: 数据: no such folder")


def test_a_long_sentence_loses_its_middle():
    code = "from common.errors import UserError, report_user_errors\nwith report_user_errors():\n"
    line = python(f"{code} raise UserError('where: ' + 'x\\n' * 10**6 + 'do this')").stderr
    assert line.startswith("error: where: x x") and line.endswith("x do this\n") and len(line) <= 301


def test_a_working_directory_that_is_gone_is_a_sentence(tmp_path):
    (tmp_path / "gone").mkdir()
    code = f"import os; os.chdir({str(tmp_path / 'gone')!r}); os.rmdir(os.getcwd())\n"
    done = python(f"{code}from common.errors import report_user_errors\nwith report_user_errors(): pass")
    assert done.returncode == 2
    assert "cd to another" in done.stderr and done.stderr.count("\n") == 1


SCRIPTS = ["train_sac.py", "train_act.py", "collect_dataset.py", "evaluate.py", "demo.py"]


def test_a_configuration_of_numba_beside_one_is_refused(tmp_path):
    """It could say where compiled code is to be found."""
    (tmp_path / start.NUMBA_CONFIG).write_text("cache_dir: ./c")
    command = [sys.executable, ROOT / "train_sac.py", "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {start.NUMBA_CONFIG} in the working")
    shown = python("from common import start; import os; print(os.environ['NUMBA_CACHE_DIR'])", cwd=tmp_path)
    assert shown.stdout == "\n", "beside the source"


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_script_imports_it_first(script):
    first = next(
        line for line in (ROOT / script).read_text().splitlines() if "import " in line and line[0] != " "
    )
    assert first.startswith("import common.start")


def test_ctrl_c_while_a_script_imports_is_one_word():
    child = subprocess.Popen(
        [sys.executable, "-v", str(ROOT / "evaluate.py"), "--help"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stderr
    for line in child.stderr:  # -v tells of each import
        if line.startswith("import 'numpy'"):
            child.send_signal(signal.SIGINT)
            break
    rest = child.stderr.read()
    assert child.wait() == 130
    assert rest.endswith("interrupted\n") and "Traceback" not in rest  # perhaps within a line of -v's


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library than glibc")
def test_freed_memory_is_used_again_unless_the_environment_says_how():
    """A page that was given back to the system is a fault when it is touched again."""
    code = """
import resource, numpy as np
if TUNED: from common import start
faults = [0, 0]
for turn in (0, 1):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20): blocks = [np.ones(1 << 20) for _ in range(4)]; del blocks
    faults[turn] = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults[1])
"""
    own = {"MALLOC_TRIM_THRESHOLD_": "65536"}
    plain, tuned, asked = (
        int(python(f"TUNED = {tuned}\n{code}", env=os.environ | extra).stdout)
        for tuned, extra in ((False, {}), (True, {}), (True, own))
    )
    assert tuned < 0.1 * plain, "reused"
    assert asked > 0.5 * plain, "as the environment says"
