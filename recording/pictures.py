"""Pictures as they are stored: PNG bytes, an MP4 of an episode, and LeRobot's statistics of them.

LeRobot sorts every sampled picture's values into 5,000 bins. A byte has 256 values: counting them first gives
the same statistics 50 times as fast.
"""

import io
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from av.error import FFmpegError
from lerobot.datasets.compute_stats import DEFAULT_QUANTILES, auto_downsample_height_width, sample_indices
from lerobot.datasets.video_utils import encode_video_frames
from PIL import Image

from common.device import usual_priority
from common.errors import UserError, reason

_LEVELS = np.arange(256, dtype=np.float32)
_BINS = 5000  # of LeRobot's quantiles
os.environ.setdefault("SVT_LOG", "1")  # the encoder would print a page for every episode


def encode_png(frame: np.ndarray) -> bytes:
    """(height, width, 3) uint8 RGB as LeRobot compresses it, to the byte."""
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def encode_mp4(pictures: Sequence[bytes], fps: int) -> bytes:
    """PNGs of one size as the video that LeRobot makes of them by default.

    Raises:
        UserError: no room for temporary files.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            for index, png in enumerate(pictures):
                (Path(folder) / f"frame-{index:06d}.png").write_bytes(png)
            video = Path(folder) / "episode.mp4"
            with usual_priority():
                encode_video_frames(folder, video, fps)
            return video.read_bytes()
    except (OSError, FFmpegError) as error:
        raise UserError(
            f"{tempfile.gettempdir()}: no video could be made there ({reason(error)}), what was saved before "
            "is intact: make room, or set TMPDIR to another folder, then --resume"
        ) from None


def histogram(frame: np.ndarray) -> np.ndarray:
    """How often each value occurs in the pixels that LeRobot looks at: (3, 256) by channel."""
    seen = auto_downsample_height_width(frame.transpose(2, 0, 1))
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in seen])


def picture_stats(histograms: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """What LeRobot writes of an episode's pictures, values in [0, 1].

    Args:
        histograms: of each picture.

    Returns:
        min, max, mean, std and five quantiles, (3, 1, 1) each, and the count (1,) of pictures looked at.
    """
    sampled = sample_indices(len(histograms))
    counts = np.sum([histograms[index] for index in sampled], axis=0)
    channels = [_channel_stats(channel) for channel in counts]
    stats = {
        name: np.reshape([float(channel[name]) / 255.0 for channel in channels], (3, 1, 1))
        for name in channels[0]
    }
    return stats | {"count": np.array([len(sampled)])}


def _channel_stats(counts: np.ndarray) -> dict[str, float]:
    """`RunningQuantileStats` of LeRobot, of bytes that occur `counts` (256,) times."""
    present, total = np.flatnonzero(counts), counts.sum()
    low, high = _LEVELS[present[0]], _LEVELS[present[-1]]
    mean = counts @ np.arange(256.0) / total
    variance = counts @ np.arange(256.0) ** 2 / total - mean**2
    stats = {"min": low, "max": high, "mean": mean, "std": np.sqrt(max(variance, 0.0))}

    edges = np.linspace(low - 1e-10, high + 1e-10, _BINS + 1)
    bins, _ = np.histogram(_LEVELS, bins=edges, weights=counts)
    below = np.cumsum(bins)
    for quantile in DEFAULT_QUANTILES:
        wanted = quantile * total
        index = int(np.searchsorted(below, wanted))
        if index == 0 or index >= _BINS:
            value = edges[0] if index == 0 else edges[-1]
        else:
            share = (wanted - below[index - 1]) / bins[index]
            value = edges[index] + share * (edges[index + 1] - edges[index])
        stats[f"q{int(quantile * 100):02d}"] = value
    return stats
