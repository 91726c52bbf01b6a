from pathlib import Path

import pytest

from benchmarks import kills
from tests.runs import run_script


@pytest.mark.slow
def test_a_handful_of_kills_loses_nothing(tmp_path):
    done = run_script(Path(kills.__file__), "--signals", "6", "--seed", "5", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr
    assert "0 of 6 tries lost" in done.stdout


LOGS = {
    "\nstopping after this step\nstopped at 1,604 env steps, saved. To resume: it": 1604,
    "  dataset       data: 16 episodes, 800 frames, 10 fps\nstopped at 8 steps, saved.": 8,
    "recording x to data\ndata: 12 episodes, 800 frames\nstopped; to resume": 12,
    "recording x to data\n": None,
}


@pytest.mark.parametrize(("log", "steps"), LOGS.items())
def test_it_reads_how_far_a_job_was(log, steps):
    assert kills.how_far(log) == steps


def test_it_sees_a_difference(tmp_path):
    for name, weights in (("one", b"1"), ("other", b"2")):
        step = tmp_path / name / "checkpoints" / "step_00000010"
        step.mkdir(parents=True)
        (step / "model.safetensors").write_bytes(weights)
        (step / "train_config.json").write_bytes(name.encode())
        for link in ("last", "best"):
            (step.parent / link).symlink_to(step.name)
        (tmp_path / name / "metrics.csv").write_text(f"step,Throughput/x,Loss\n1,{name},0.5\n")
    one, other = (kills.content(tmp_path / name) for name in ("one", "other"))
    assert kills.differences(one, other) == ["best/model.safetensors", "last/model.safetensors"]
    assert kills.reached(tmp_path / "one") == 10
