import os
import resource
import tempfile

import numpy as np
import pytest
from imageio.v3 import imread
from lerobot.datasets.compute_stats import compute_episode_stats
from lerobot.datasets.image_writer import write_image

from common.errors import UserError
from recording.pictures import encode_mp4, encode_png, histogram, picture_stats


@pytest.mark.parametrize(("count", "side"), [(1, 8), (7, 16), (130, 8), (3, 320)])
def test_statistics_are_lerobots(count, side, tmp_path):
    rng = np.random.default_rng(count)
    frames = rng.integers(30, 200, (count, side, side, 3)).astype(np.uint8)
    frames[rng.random(frames.shape) < 0.3] = 255
    paths = [str(tmp_path / f"{index}.png") for index in range(count)]
    for path, frame in zip(paths, frames, strict=True):
        write_image(frame, path, compress_level=6)
    feature = {"dtype": "image", "shape": (side, side, 3), "names": None}
    expected = compute_episode_stats({"image": paths}, {"image": feature})["image"]
    got = picture_stats([histogram(frame) for frame in frames])
    assert got.keys() == expected.keys()
    for name, values in expected.items():
        assert got[name].shape == values.shape
        np.testing.assert_allclose(got[name], values, rtol=1e-3, err_msg=name)


def test_a_picture_is_lossless_and_compressed_as_lerobot_does(tmp_path):
    frame = np.random.default_rng(0).integers(0, 256, (20, 20, 3)).astype(np.uint8)
    write_image(frame, tmp_path / "frame.png", compress_level=6)
    png = encode_png(frame)
    assert png == (tmp_path / "frame.png").read_bytes()
    np.testing.assert_array_equal(imread(png), frame)


def test_a_video_that_does_not_fit_is_told_of(monkeypatch, tmp_path):
    """The encoder may write no more than a part of it."""
    frames = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3)).astype(np.uint8)
    pictures = [encode_png(frame) for frame in frames]
    limit = 1 + max(map(len, pictures))
    assert len(encode_mp4(pictures, fps=10)) > 2 * limit
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        with pytest.raises(UserError, match=f"{tmp_path}: no video could be made there .*File too large"):
            encode_mp4(pictures, fps=10)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(not hasattr(os, "sched_getscheduler"), reason="this system has no such policies")
@pytest.mark.parametrize("encode", ["LeRobot's", "of a user"])
def test_a_video_leaves_the_scheduling_policy_as_it_was(encode, monkeypatch):
    """LeRobot's encoder changes it for root alone, so another one changes it as every user may."""
    if encode == "of a user":
        batch = os.sched_param(0)

        def encoder(folder, video, fps):
            os.sched_setscheduler(0, os.SCHED_BATCH, batch)
            video.write_bytes(b"")

        monkeypatch.setattr("recording.pictures.encode_video_frames", encoder)
    before = os.sched_getscheduler(0)
    encode_mp4([encode_png(np.zeros((64, 64, 3), np.uint8))] * 2, fps=10)
    assert os.sched_getscheduler(0) == before
