import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recording.pictures import encode_png
from recording.verify import verify


@pytest.fixture
def dataset(block, new_dataset):
    dataset = new_dataset()
    dataset.append(block[:3], dataset.notes)
    return dataset


def doctor(dataset, column, frame, change):
    """Change one value of the stored frames."""
    (path,) = (dataset.root / "data").rglob("*.parquet")
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[frame] = change(values[frame])
    index = table.column_names.index(column)
    field = table.schema.field(column)
    pq.write_table(table.set_column(index, field, pa.array(values, field.type)), path)


def test_what_was_recorded_replays(dataset, capsys):
    assert verify(dataset)
    assert "3 of 3 episodes replay exactly in gym_pusht/PushT-v0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "settings", [{"noise": 8.0, "hold": 3}, {"observations": "keypoints"}, {"video": True}]
)
def test_so_do_all_kinds(settings, player, new_dataset):
    crew, dataset = player(**settings), new_dataset(**settings)
    dataset.append(crew.play(crew.open(), 0), dataset.notes)
    assert verify(dataset)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("action", lambda v: [v[0] + 30, v[1]], r"state differs by up to .* px, first in frame 5"),
        (
            "observation.state",
            lambda v: [v[0], v[1] + 0.5],
            r"state differs by up to 0.5 px, first in frame 4",
        ),
        (
            "sim.state",
            lambda v: [*v[:4], v[4] + 0.01, *v[5:]],
            r"state differs by up to 1 px, first in frame 4",
        ),
        ("next.reward", lambda v: v + 0.25, r"next.reward by up to 0.25, first in frame 4"),
        ("next.success", lambda v: not v, r"next.success in 1 frames, first in frame 4"),
        (
            "next.done",
            lambda v: not v,
            r"next.done, timestamp or episode_index in 1 frames, first in frame 4",
        ),
        (
            "observation.image",
            lambda v: v | {"bytes": encode_png(np.zeros((32, 32, 3), np.uint8))},
            "picture by up to",
        ),
    ],
)
def test_a_changed_value_is_found(column, change, message, dataset, block, capsys):
    doctor(dataset, column, len(block[0]) + 4, change)
    assert not verify(dataset)
    printed = capsys.readouterr().out
    assert "2 of 3 episodes replay exactly" in printed
    line = next(line for line in printed.splitlines() if line.startswith("episode"))
    assert line.startswith("episode 1 (seed 7001): ")
    assert re.search(message, line)
