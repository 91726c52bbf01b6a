"""Stacks of pictures: against lists of pictures that are kept in whole."""

import numpy as np
import pytest
from gymnasium import spaces

from common.config import from_dict
from common.errors import UserError
from envs.gym_vector import BoxCodec
from envs.interfaces import RawObservation
from envs.pixels import SAME_TONES, PixelCodec, PixelConfig, luminance, stacked

SIDE = 8


def inner() -> BoxCodec:
    return BoxCodec(spaces.Box(-2.0, 2.0, (3,)), spaces.Box(-4.0, 4.0, (2,)))


def raw_observation(rng: np.random.Generator, slots: int) -> RawObservation:
    pixels = rng.integers(0, 256, (slots, SIDE, SIDE, 3), np.uint8)
    return {"pixels": pixels, "state": rng.uniform(-2, 2, (slots, 3)).astype(np.float32)}


def grey_or_not(picture: np.ndarray, grey: bool) -> np.ndarray:
    """(H, W, 3) -> (H, W, C) in integers of any size."""
    if not grey:
        return picture
    weighed = (picture.astype(np.int64) * [77, 150, 29]).sum(axis=-1, keepdims=True)
    return ((weighed + 128) // 256).astype(np.uint8)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("numbers", [False, True])
def test_stacks_are_the_last_pictures_that_were_decided_on(seed, numbers):
    """Episodes begin in some slots, decisions are made in others, a new codec takes over now and then."""
    rng = np.random.default_rng(seed)
    slots, stack, grey = int(rng.integers(1, 5)), int(rng.integers(1, 5)), bool(rng.integers(2))
    config = PixelConfig(SIDE, grey, stack)
    tones = rng.permutation(256).astype(np.uint8) if grey and seed % 2 else SAME_TONES
    codec = PixelCodec(slots, config, inner(), numbers, tones)
    assert codec.pixel_shape == (SIDE, SIDE, stack * (1 if grey else 3)) and codec.stack == stack
    assert codec.observation_size == (3 if numbers else 0) and codec.action_size == 2
    remembered: list[list[np.ndarray]] = [[] for _ in range(slots)]  # of the running episode's decisions

    begins = np.ones(slots, bool)
    for _ in range(40):
        raw = raw_observation(rng, slots)
        codec.reset(begins, raw)
        pictures = [grey_or_not(picture, grey) for picture in raw["pixels"]]
        pictures = [tones[picture] for picture in pictures] if grey else pictures
        for i in np.flatnonzero(begins):
            remembered[i] = [pictures[i]] * stack
        expected = [np.concatenate([*remembered[i], pictures[i]][-stack:], axis=-1) for i in range(slots)]
        for _ in range(2):  # looking changes nothing
            seen = codec.encode(raw)
            np.testing.assert_array_equal(seen.pixels, expected)
            assert seen.pixels.dtype == np.uint8 and seen.numbers.dtype == np.float32
            np.testing.assert_array_equal(seen.numbers, raw["state"] / 2 if numbers else np.zeros((slots, 0)))
        decides = rng.random(slots) < 0.7
        actions = codec.decode(rng.uniform(-1, 1, (slots, 2)), raw, decides)
        assert (np.abs(actions) <= 4).all() and (np.abs(actions) > 1).any()
        for i in np.flatnonzero(decides):
            remembered[i].append(pictures[i])
        np.testing.assert_array_equal(seen.pixels, expected)  # what was given out stays
        begins = rng.random(slots) < 0.2
        if rng.random() < 0.2:
            state = codec.state_dict()
            codec.reset(np.ones(slots, bool), raw_observation(rng, slots))  # the state is a copy
            codec = PixelCodec(slots, config, inner(), numbers, tones)
            codec.load_state_dict(state)


def test_the_inner_codec_hears_how_far_the_training_is():
    codec = PixelCodec(1, PixelConfig(SIDE), inner())
    codec.env_steps = 17
    codec.decode(np.zeros((1, 2)), raw_observation(np.random.default_rng(0), 1), np.ones(1, bool))
    assert codec.inner.env_steps == 17


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((2, SIDE, SIDE, 1), np.uint8),
        np.zeros((3, SIDE, SIDE, 2), np.uint8),
        np.zeros((2, SIDE, SIDE, 2), np.float32),
    ],
)
def test_pictures_of_another_training_are_refused(pictures):
    with pytest.raises(ValueError, match=r"env\.pictures"):
        PixelCodec(2, PixelConfig(SIDE), inner()).load_state_dict({"pictures": pictures})


def test_luminance_is_that_of_the_standard():
    every = np.stack(np.meshgrid(*[np.arange(0, 256, 5)] * 3), axis=-1).astype(np.uint8)
    grey = luminance(every)[..., 0]
    assert np.abs(grey - every @ [0.299, 0.587, 0.114]).max() < 1
    shades = np.arange(256, dtype=np.uint8)[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(luminance(shades)[:, 0], shades[:, 0])  # black stays black, white white


def test_stacking_takes_pictures_that_do_not_lie_side_by_side():
    rng = np.random.default_rng(0)
    earlier = rng.integers(0, 256, (6, 5, 4, 4), np.uint8)[::2, :, ::-1]
    rgb = rng.integers(0, 256, (3, 5, 9, 3), np.uint8)[:, :, :4]
    expected = np.concatenate([earlier[..., 1:], rgb], axis=-1)
    np.testing.assert_array_equal(stacked(earlier, rgb, grey=False, drop=1), expected)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"size": 0}, "size must be at least 8, got 0"),
        ({"size": 10_000}, "size must be at most 512"),
        ({"stack": 0}, "stack must be at least 1, got 0"),
        ({"size": 48.0}, "size: expected int, got 48.0"),
    ],
)
def test_impossible_pictures_are_refused(values, said):
    with pytest.raises(UserError, match=said):
        from_dict(PixelConfig, values)
