"""Reads the videos of a LeRobot dataset, which somebody else may have written."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from lerobot.datasets.video_utils import FrameTimestampError, decode_video_frames

from common.untrusted import open_regular


@contextmanager
def open_video(path: Path) -> Iterator[InputContainer]:
    """A video, an MP4: FFmpeg would also open what is a list of files or an address.

    Raises:
        ValueError: it is another file; or another exception of `common.lerobot_files.DAMAGE`.
    """
    with open_regular(path) as file:
        if file.read(8)[4:] != b"ftyp":
            raise ValueError(f"{path.name} is not an MP4")
        file.seek(0)
        with av.open(file, "r", format="mov") as video:
            yield video


def read_video(path: Path, times: Sequence[float], fps: float, height: int, width: int) -> np.ndarray:
    """The pictures at these times, in seconds: (len(times), 3, height, width) uint8 RGB.

    Raises:
        ValueError: it is no MP4, its pictures are of another size, or one is missing; or another exception of
            `common.lerobot_files.DAMAGE`.
    """
    with open_video(path) as video:
        size = video.streams.video[0].height, video.streams.video[0].width
    if size != (height, width):  # before they are decoded
        raise ValueError(f"{path.name} has pictures of {size[0]} x {size[1]}, not {height} x {width}")
    half_a_frame = 0.5 / fps  # the nearest picture is in no doubt, even where the times have drifted
    try:
        return decode_video_frames(path, [*times], half_a_frame, "pyav", return_uint8=True).numpy()
    except FrameTimestampError:
        raise ValueError(f"{path.name} has not the pictures of {times[0]:g} to {times[-1]:g} s") from None
