"""The table of SAC from pictures: what its rows train, and what it says of their curves."""

import numpy as np
import pytest

from benchmarks import pixel_ablations as table
from train_sac import read_config


def test_each_row_changes_one_thing_of_the_recipe():
    recipe, *others = (read_config(table.train_command(row).split()[1:]) for row in table.ROWS)
    assert recipe.total_env_steps == table.ENV_STEPS
    assert all(other != recipe for other in others)
    assert len({str(config) for config in others}) == len(others)


def test_unfinished_trainings_have_no_return_at_the_end(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "LOGS", tmp_path)
    curves = {1: [-900.0, -150.0, -140.0], 2: [-900.0, -800.0, -130.0], 3: [-900.0], 4: None}
    for seed, curve in curves.items():
        folder = tmp_path / f"no_shift_seed{seed}"
        folder.mkdir()
        folder.with_suffix(".log").touch()
        if curve:
            lines = [f"{1000 + 750 * i},,{value}\n1100,2.5," for i, value in enumerate(curve)]
            (folder / "metrics.csv").write_text("\n".join(["step,Loss/actor,Eval/return", *lines]))
    table.print_table()
    (row,) = [line for line in capsys.readouterr().out.splitlines() if "no shift" in line]
    assert row.startswith("| no shift | 1,750, 2,500 | -135 (-199 to -71) |")  # 12.71 * 7.07 / sqrt(2)
    assert "--agent.encoder.shift 0" in row


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_the_interval_holds_the_mean_95_times_of_100(count):
    rng = np.random.default_rng(count)
    samples = rng.normal(size=(200_000, count))
    half = table.T_975[count] * samples.std(axis=1, ddof=1) / np.sqrt(count)
    assert (np.abs(samples.mean(axis=1)) < half).mean() == pytest.approx(0.95, abs=0.002)
