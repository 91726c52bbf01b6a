"""The tables of recipes with one choice changed: what their rows train, play and print."""

import json

import pytest

import evaluate
from benchmarks import ablations as table
from common.config import parse
from common.errors import UserError
from train_sac import read_config


@pytest.mark.parametrize("of", table.RECIPES)
def test_each_row_changes_one_thing_of_the_recipe(of):
    commands = [table.train_command(of, row, seed=1) for row in table.RECIPES[of].rows]
    recipe, *others = (read_config(command.split()[1:]) for command in commands)
    assert all(other != recipe for other in others)
    assert len({str(config) for config in others}) == len(others)


@pytest.mark.parametrize(("of", "checkpoint"), [("pusht", "best"), ("car_racing", "last")])
def test_a_row_plays_what_it_trained(of, checkpoint, monkeypatch):
    ran = []
    monkeypatch.setattr(table.table, "run_commands", lambda commands, log: ran.extend(commands) or True)
    assert table.run(of, "no_mirror", seed=2)
    trained, *played = (command.split()[1:] for command in ran)
    run = read_config(trained)
    played = [parse(evaluate.Config, flags) for flags in played]
    assert {config.policy for config in played} == {f"{run.logs}/{run.run_name}/checkpoints/{checkpoint}"}
    assert [config.escape for config in played] == [True, False]
    assert len({config.json for config in played}) == len(played)


def test_a_row_of_another_recipe_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "LOGS", tmp_path / "logs")
    with pytest.raises(UserError, match=r"rows of pusht are recipe, .* got rank_3"):
        table.main(rows=("rank_3",))
    assert not table.LOGS.exists()


@pytest.mark.parametrize(
    ("of", "line"),
    [
        ("pusht", "| no mirror | 50.0 % (40.0 to 60.0) | 30 | 0.900 | 25.0 % (20.0 to 30.0) | `python"),
        (
            "car_racing",
            "| no mirror | 901 | 50.0 % (40.0 to 60.0) | 95.0 % | 25.0 % (20.0 to 30.0) |",
        ),
    ],
)
def test_a_finished_row_is_a_line_of_the_table(of, line, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(table, "LOGS", tmp_path)
    numbers = {"pc_success": 50.0, "success_ci95": [0.4, 0.6], "mean_steps_to_success": 30.0}
    numbers |= {"mean_max_coverage": 0.9, "mean_progress": 0.95, "avg_sum_reward": 901.2}
    alone = numbers | {"pc_success": 25.0, "success_ci95": [0.2, 0.3]}
    (tmp_path / of).mkdir()
    (tmp_path / of / "no_mirror_seed2.json").write_text(json.dumps(numbers))
    (tmp_path / of / "no_mirror_seed2_mode_alone.json").write_text(json.dumps(alone))
    table.print_table(of)
    header, rule, row = capsys.readouterr().out.splitlines()
    assert header.count("|") == rule.count("|") == row.count("|")
    assert row.startswith(line) and row.endswith("--seed 2` |")
