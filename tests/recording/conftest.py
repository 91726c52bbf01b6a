import json
import os
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest

from policies import ASSETS, fingerprint
from recording.dataset import Dataset, Notes
from recording.schema import Recipe
from recording.workers import BlockRecorder

os.environ["HF_HUB_OFFLINE"] = "1"
FIRST = 7_000
EXPERT = ASSETS / "sac_expert_fast"  # its episodes are the shorter ones


def expert_recipe(**settings):
    small = {"seed": FIRST, "observations": "pixels", "resolution": 32, "hold": 0}
    return Recipe(policy="expert", fingerprint=fingerprint(EXPERT), **small | settings)


@pytest.fixture(scope="session", autouse=True)
def _silence(tmp_path_factory):
    datasets.disable_progress_bars()
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def make_recipe():
    return expert_recipe


@pytest.fixture(scope="session")
def recorder():
    """Makes recorders of the fast expert in small blocks."""
    return lambda **settings: BlockRecorder(expert_recipe(**settings), str(EXPERT), block_size=4)


@pytest.fixture(scope="session")
def block(record_block):
    """Eight recorded episodes."""
    return record_block(0) + record_block(1)


@pytest.fixture(scope="session")
def record_block(recorder):
    """Records the four episodes of a block."""

    def record_block(number=0, **settings):
        blocks = recorder(**settings)
        return blocks.record(blocks.open_policy(), number)

    return record_block


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
