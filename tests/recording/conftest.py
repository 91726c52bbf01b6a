import json
import os
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from policies import ASSETS, fingerprint
from recording.dataset import Dataset, Notes
from recording.schema import Recipe
from recording.workers import Player

os.environ["HF_HUB_OFFLINE"] = "1"
FIRST = 7_000
EXPERT = ASSETS / "sac_expert_fast"  # its episodes are the shorter ones


def expert_recipe(**settings):
    return Recipe(
        policy="expert", fingerprint=fingerprint(EXPERT), **{"seed": FIRST, "resolution": 32} | settings
    )


@pytest.fixture(scope="session", autouse=True)
def _silence(tmp_path_factory):
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_recipe():
    return expert_recipe


@pytest.fixture(scope="session")
def player():
    """Makes players of the fast expert in small blocks."""
    return lambda **settings: Player(expert_recipe(**settings), str(EXPERT), block=4)


@pytest.fixture(scope="session")
def block(player):
    """Eight recorded episodes."""
    crew = player()
    policy = crew.open()
    return crew.play(policy, 0) + crew.play(policy, 1)


@pytest.fixture
def new_dataset(tmp_path):
    def new(name="dataset", **settings):
        recipe = expert_recipe(**settings)
        return Dataset(tmp_path / name, Notes(recipe, next_seed=recipe.seed))

    return new


@pytest.fixture(scope="session")
def contents():
    """Everything in a dataset, as plain values."""

    def read(root: Path) -> dict:
        info = json.loads((root / "meta/info.json").read_text())
        notes = root / "meta/recording.json"
        tables = {
            name: [
                row
                for path in sorted((root / name).rglob("*.parquet"))
                for row in pq.read_table(path).to_pylist()
            ]
            for name in ("data", "meta/episodes")
        }
        return {
            "info": info,
            "stats": json.loads((root / "meta/stats.json").read_text()),
            "notes": {k: v for k, v in json.loads(notes.read_text()).items() if k != "commands"}
            if notes.exists()
            else {},
            "tasks": pq.read_table(root / "meta/tasks.parquet").to_pylist(),
            **tables,
        }

    return read
