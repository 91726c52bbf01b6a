import numpy as np
import pytest
from PIL import Image, ImageSequence

from common.video import LONGEST_GIF, write_gif


@pytest.mark.parametrize(("count", "every"), [(LONGEST_GIF, 1), (LONGEST_GIF + 1, 2), (3 * LONGEST_GIF, 3)])
def test_a_long_gif_has_fewer_frames_and_lasts_as_long(tmp_path, count, every):
    grey = np.arange(count) * 255 // count
    frames = np.broadcast_to(grey[:, None, None, None], (count, 8, 8, 3)).astype(np.uint8)
    write_gif(tmp_path / "film.gif", frames, fps=10)
    with Image.open(tmp_path / "film.gif") as film:
        shown = [
            (frame.info["duration"], frame.convert("L").getpixel((0, 0)))
            for frame in ImageSequence.Iterator(film)
        ]
    assert sum(duration for duration, _ in shown) == pytest.approx(100 * count, abs=100 * every)
    assert shown[0][1] == 0 and len(shown) <= LONGEST_GIF
