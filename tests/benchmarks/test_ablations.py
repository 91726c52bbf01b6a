"""The tables of recipes with one choice changed: what their rows train."""

import pytest

from benchmarks import ablations as table
from common.errors import UserError
from train_sac import read_config


@pytest.mark.parametrize("of", table.RECIPES)
def test_each_row_changes_one_thing_of_the_recipe(of):
    commands = [table.train_command(of, row, seed=1) for row in table.RECIPES[of].rows]
    recipe, *others = (read_config(command.split()[1:]) for command in commands)
    assert all(other != recipe for other in others)
    assert len({str(config) for config in others}) == len(others)


def test_a_row_of_another_recipe_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table, "LOGS", tmp_path / "logs")
    with pytest.raises(UserError, match=r"rows of pusht are recipe, .* got rank_3"):
        table.main(rows=("rank_3",))
    assert not table.LOGS.exists()
