"""Frames to an MP4 that browsers, notebooks and slides play, or to a GIF that a README shows."""

import signal
from collections.abc import Iterable
from pathlib import Path

import imageio.v2 as imageio
import imageio.v3
import numpy as np
from imageio_ffmpeg import get_ffmpeg_exe

from common.signals import blocking_stop_signals
from common.untrusted import new_file, writing

LONGEST_GIF = 300  # frames; each takes 15 ms of palette and up to 50 kB


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Encode frames as H.264, one at a time; a video that exists is whole.

    Args:
        path: ending in `.mp4`.
        frames: (height, width, 3) uint8 RGB each, of one size, both sides even.
        fps: frames per second.

    Raises:
        UserError: it cannot be written.
    """
    temporary = path.with_name(f".partial_{path.name}")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # a link there would be written through
        if hasattr(signal, "pthread_sigmask"):  # Windows has none
            with blocking_stop_signals():
                get_ffmpeg_exe()  # tries it out once, and takes one that Ctrl-C has ended for a broken one
        try:
            # 4:2:0 is what players expect, hence even sides; imageio would rescale to multiples of 16.
            form = {"codec": "libx264", "quality": 8, "macro_block_size": 2}
            faster = ["-preset", "veryfast"]  # 1.6 times, and 5 % larger
            with imageio.get_writer(temporary, fps=fps, output_params=faster, **form) as writer:
                for frame in frames:
                    writer.append_data(frame)  # pyright: ignore[reportAttributeAccessIssue]
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_gif(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Write frames (height, width, 3) uint8 RGB as a GIF that repeats.

    Of more than `LONGEST_GIF` frames every second, third and so on is shown for as much longer.

    Raises:
        UserError: it cannot be written.
    """
    shown = list(frames)
    every = -(-len(shown) // LONGEST_GIF)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with new_file(path, "wb") as file:
            file.write(encode_gif(np.stack(shown[::every]), fps / every))


def encode_gif(frames: np.ndarray, fps: float) -> bytes:
    """Frames (T, height, width, 3) uint8 RGB as the bytes of a GIF."""
    return imageio.v3.imwrite("<bytes>", frames, extension=".gif", duration=1000 / fps, loop=0)
