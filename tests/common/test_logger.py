import csv
import io
from pathlib import Path

import imageio.v3
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator

from common.errors import UserError
from common.logger import Logger
from tests.runs import curves

# Two kinds of rows in turn, as training and evaluation make them, and a column that comes late.
ROWS = [
    (10, {"Loss/actor": 1 / 3}),
    (20, {"Loss/actor": -2.5, "Reward/episode": 176.0}),
    (20, {"Eval/success_rate": 0.995}),
    (30, {"Loss/actor": 1.23456789e-7, "Reward/episode": 3.0}),
    (40, {"Loss/actor": 7.0, "Reward/episode": 4.0, "Alpha": 0.1}),
    (40, {"Eval/success_rate": 1.0}),
    (50, {"Loss/actor": 8.0}),
]


def read(folder: Path) -> list[tuple[int, dict[str, float]]]:
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [(int(row.pop("step")), {k: float(v) for k, v in row.items() if v}) for row in rows]


@pytest.mark.parametrize(
    "damaged", [b"stp,a\n1,2\n", b"step,a\none,2\n", b"step\n\xff\n", b"step,a\n1,2,3\n"]
)
def test_a_damaged_file_is_named(tmp_path, damaged):
    (tmp_path / "metrics.csv").write_bytes(damaged)
    with pytest.raises(UserError, match=r"metrics\.csv: damaged .*; move it away"):
        Logger(tmp_path, resumed_at=5)


def log(folder: Path, rows: list, resumed_at: int = 0) -> None:
    with Logger(folder, resumed_at) as logger:
        for step, scalars in rows:
            logger.log(step, scalars)


def expected_curves() -> dict[str, list[tuple[int, float]]]:
    tags = {tag for _, scalars in ROWS for tag in scalars}
    return {
        tag: [(step, np.float32(scalars[tag])) for step, scalars in ROWS if tag in scalars] for tag in tags
    }


def test_numbers_come_back_from_both_files(tmp_path):
    log(tmp_path, ROWS)
    rounded = [(step, {tag: float(f"{value:.6g}") for tag, value in row.items()}) for step, row in ROWS]
    assert read(tmp_path) == rounded
    assert curves(tmp_path) == expected_curves()


def test_every_row_is_on_the_disk_at_once(tmp_path):
    """A kill loses nothing that was logged."""
    logger = Logger(tmp_path)
    for count, (step, scalars) in enumerate(ROWS, start=1):
        logger.log(step, scalars)
        assert len(read(tmp_path)) == count
        for tag, value in scalars.items():
            assert curves(tmp_path)[tag][-1] == (step, np.float32(value))
    logger.close()


@pytest.mark.parametrize("resumed_at", [0, 10, 20, 30, 40, 50])
def test_a_killed_run_logs_what_an_uninterrupted_one_does(tmp_path, resumed_at):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        folder.mkdir()
        log(folder, ROWS)
    with (killed / "metrics.csv").open("a") as file:
        file.write("1")  # of a row that began as "100,..."
    log(killed, [row for row in ROWS if row[0] > resumed_at], resumed_at)
    assert (killed / "metrics.csv").read_bytes() == (whole / "metrics.csv").read_bytes()
    assert curves(killed) == expected_curves()


def test_video_is_a_gif_that_tensorboard_plays(tmp_path):
    frames = np.zeros((5, 32, 32, 3), np.uint8)
    for t in range(5):
        frames[t, :, 6 * t : 6 * t + 6] = 255
    with Logger(tmp_path) as logger:
        logger.video(10, frames, fps=10)
    (event,) = EventAccumulator(str(tmp_path), size_guidance={IMAGES: 0}).Reload().Images("Rollout")
    assert (event.step, event.width, event.height) == (10, 32, 32)
    played = imageio.v3.imread(io.BytesIO(event.encoded_image_string), extension=".gif", index=...)
    np.testing.assert_array_equal(played[..., :3], frames)


def test_a_disk_that_cannot_be_written_is_told(tmp_path):
    logger = Logger(tmp_path)
    logger.log(10, {"Alpha": 1.0})
    (tmp_path / "metrics.csv").unlink()
    (tmp_path / "metrics.csv").mkdir()
    with pytest.raises(UserError, match="cannot be written: Is a directory"):
        logger.log(20, {"Alpha": 1.0})
    logger.close()
    with pytest.raises(UserError, match="metrics.csv: damaged .it is no regular file.; move it away"):
        Logger(tmp_path)


def test_a_picture_is_shown_as_it_is(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    with Logger(tmp_path) as logger:
        logger.image(10, "Reconstruction", picture)
    events = EventAccumulator(str(tmp_path), size_guidance={IMAGES: 0}).Reload()
    (event,) = events.Images("Reconstruction")
    assert (event.step, event.width, event.height) == (10, 9, 6)
    shown = imageio.v3.imread(io.BytesIO(event.encoded_image_string), extension=".png")
    np.testing.assert_array_equal(shown, picture)
