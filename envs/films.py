"""Episodes as videos: frames below a caption, and several episodes side by side."""

from collections.abc import Iterator, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from envs.interfaces import Episode, Task
from envs.plots import FAILURE, FAINT, INK, SUCCESS, TRACK

CAPTION_HEIGHT = 48  # pixels above a film's frames


def film(episode: Episode, task: Task) -> Iterator[np.ndarray]:
    """The frames of an episode recorded with them, each below a caption: seed, step, progress, outcome.

    Where the task has no progress the caption shows the return.

    Yields:
        (side + CAPTION_HEIGHT, side, 3) uint8 RGB, T + 1 times.
    """
    assert episode.frames is not None
    returns = np.cumsum([0.0, *episode.rewards])
    for step, frame in enumerate(episode.frames):
        outcome = ""
        if step == len(episode) and episode.success is not None:
            outcome = "success" if episode.success else "failure"
        if not len(episode.progress):
            number, bar = f"return {returns[step]:.1f}", None
        else:
            progress = float(episode.progress[step])
            number, bar = f"{task.progress_name} {progress:.3f}", (progress, task.progress_goal)
        text = f"seed {episode.seed}", f"step {step}", number
        yield np.concatenate([_caption(frame.shape[1], text, outcome, bar), frame])


def mosaic(episodes: Sequence[Episode], columns: int = 3, hold: int = 10) -> Iterator[np.ndarray]:
    """Episodes with frames of one size, played side by side; those that end early wait for the others.

    Yields:
        (rows * side, columns * side, 3) uint8 RGB, the last picture `hold` times.
    """
    films = [episode.frames for episode in episodes if episode.frames is not None]
    for step in range(max(map(len, films)) - 1 + hold):
        tiles = [frames[min(step, len(frames) - 1)] for frames in films]
        tiles += [np.full_like(tiles[0], 255)] * (-len(tiles) % columns)
        rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
        yield np.concatenate(rows)


@cache
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Read from its file once, and not for every frame."""
    return ImageFont.load_default(size=size)


def _caption(
    width: int, texts: tuple[str, str, str], outcome: str, bar: tuple[float, float] | None
) -> np.ndarray:
    """A line of text above a bar that fills with the progress, (CAPTION_HEIGHT, width, 3) uint8.

    Args:
        bar: progress, and the progress that counts as success; None: no bar.
    """
    color = {"": FAINT, "success": SUCCESS, "failure": FAILURE}[outcome]
    font = _font(width / 30)
    picture = Image.new("RGB", (width, CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    left, right, middle, top, bottom = 6, width - 7, 18, 34, 41
    for x, text in zip((left, width * 0.35, width * 0.55), texts, strict=True):
        draw.text((x, middle), text, INK, font, anchor="lm")
    if outcome:
        draw.text((right, middle), outcome, color, font, anchor="rm")
    if bar:
        progress, goal = (left + min(share, 1.0) * (right - left) for share in bar)
        draw.rectangle((left, top, right, bottom), TRACK)
        draw.rectangle((left, top, progress, bottom), color)
        draw.line((goal, top - 3, goal, bottom + 3), INK, width=2)
    return np.asarray(picture)
