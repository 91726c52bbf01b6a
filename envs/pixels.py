"""Pictures as network inputs: grey or coloured, of the last few decisions, stacked.

A `PixelCodec` lies around the task's own codec, which keeps the meaning of actions and of numbers.
"""

import math
from dataclasses import dataclass

import numpy as np
from numba import njit

from common.bounds import Several, Side
from envs.interfaces import Codec, PixelObservations, RawObservation

SAME_TONES = np.arange(256, dtype=np.uint8)  # each luminance is seen as it is


@dataclass(frozen=True)
class PixelConfig:
    """The pictures that a network sees."""

    size: Side = 48  # side in pixels; the time of an update grows with its square
    grey: bool = True  # luminance alone; a third of the memory
    stack: Several = 3  # pictures of the latest decisions, so that speeds can be seen

    @property
    def colours(self) -> int:
        """Numbers per pixel of one picture."""
        return 1 if self.grey else 3


class PixelCodec:
    """An `envs.interfaces.Codec` that shows pictures.

    It remembers the last stack - 1 pictures that were decided on in each slot; at an episode's start, its
    first picture in all places. So a stack holds decisions, not environment steps, whatever the repeat.

    Args:
        num_envs: slots, n.
        config: of the pictures; the raw observation "pixels" is (n, size, size, 3) uint8 RGB.
        inner: says what actions mean, and which numbers there are.
        shows_numbers: the network sees those beside the pictures.
        tones: (256,) uint8, what the network sees of each luminance of grey pictures.
    """

    def __init__(
        self,
        num_envs: int,
        config: PixelConfig,
        inner: Codec,
        shows_numbers: bool = False,
        tones: np.ndarray = SAME_TONES,
    ) -> None:
        self.config = config
        self.tones = tones
        self.inner = inner
        self.shows_numbers = shows_numbers
        self.observation_size = inner.observation_size if shows_numbers else 0
        self.action_size = inner.action_size
        self.stack = config.stack
        side, channels = config.size, config.stack * config.colours
        self.pixel_shape: tuple[int, int, int] | None = (side, side, channels)
        self.env_steps = math.inf
        self.pictures = np.zeros((num_envs, side, side, channels - config.colours), np.uint8)  # oldest first

    def reset(self, slots: np.ndarray, raw: RawObservation) -> None:
        begun = raw["pixels"][slots]
        begun = self._shown(np.zeros((*begun.shape[:-1], 0), np.uint8), begun)
        self.pictures[slots] = np.tile(begun, (1, 1, 1, self.stack - 1))
        self.inner.reset(slots, raw)

    def encode(self, raw: RawObservation) -> PixelObservations:
        pixels = self._shown(self.pictures, raw["pixels"])
        if not self.shows_numbers:
            return PixelObservations(pixels, np.zeros((len(pixels), 0), np.float32))
        numbers = self.inner.encode(raw)
        assert isinstance(numbers, np.ndarray), "a PixelCodec lies around a codec without pictures"
        return PixelObservations(pixels, numbers)

    def decode(self, actions: np.ndarray, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        self._remember(raw, slots)
        self.inner.env_steps = self.env_steps
        return self.inner.decode(actions, raw, slots)

    def advance(self, chunk: np.ndarray, raw: RawObservation, slots: np.ndarray) -> None:
        self._remember(raw, slots)
        self.inner.advance(chunk, raw, slots)

    def _remember(self, raw: RawObservation, slots: np.ndarray) -> None:
        """The pictures of the slots that decide."""
        if self.stack > 1:
            earlier, now = self.pictures[slots], raw["pixels"][slots]
            self.pictures[slots] = self._shown(earlier, now, drop=self.config.colours)

    def _shown(self, earlier: np.ndarray, rgb: np.ndarray, drop: int = 0) -> np.ndarray:
        return stacked(earlier, rgb, self.config.grey, drop, self.tones)

    def encode_actions(self, actions: np.ndarray, raw: RawObservation) -> np.ndarray:
        return self.inner.encode_actions(actions, raw)

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.inner.state_dict() | {"pictures": self.pictures.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore `state_dict`.

        Raises:
            ValueError: the pictures are of another shape or type.
        """
        pictures = state["pictures"]
        if pictures.shape != self.pictures.shape or pictures.dtype != np.uint8:
            raise ValueError(f"env.pictures are {pictures.dtype} of the shape {pictures.shape}")
        self.pictures = pictures.copy()
        self.inner.load_state_dict(state)


def luminance(rgb: np.ndarray) -> np.ndarray:
    """Grey pictures (..., 1) uint8 of pictures (..., 3) uint8 RGB: Y of ITU-R BT.601 in 8-bit fixed point."""
    return stacked(np.zeros((*rgb.shape[:-1], 0), np.uint8), rgb, grey=True)


def stacked(
    earlier: np.ndarray, rgb: np.ndarray, grey: bool, drop: int = 0, tones: np.ndarray = SAME_TONES
) -> np.ndarray:
    """Pictures behind earlier ones, as `np.concatenate` on the last axis, and many times as fast.

    Args:
        earlier: (n, H, W, M) uint8.
        rgb: (n, H, W, 3) uint8.
        grey: of these the luminance.
        drop: first channels of the earlier ones that are left out.
        tones: (256,) uint8 that take the luminance's place.

    Returns:
        (n, H, W, M - drop + 1) uint8, or (n, H, W, M - drop + 3) in colour.
    """
    stacks = np.empty((*rgb.shape[:-1], earlier.shape[-1] - drop + (1 if grey else 3)), np.uint8)
    num_pixels = rgb.size // 3
    earlier, rgb, flat = (
        np.ascontiguousarray(part).reshape(num_pixels, part.shape[-1]) for part in (earlier, rgb, stacks)
    )
    _stack(earlier, rgb, flat, grey, drop, tones)
    return stacks


@njit(cache=True, nogil=True)
def _stack(earlier, rgb, stacks, grey, drop, tones):  # pyright: ignore
    """Pixels (P, M) and (P, 3) into (P, M - drop + 1) or (P, M - drop + 3)."""
    channels = earlier.shape[1] - drop
    for i in range(len(rgb)):
        for c in range(channels):
            stacks[i, c] = earlier[i, drop + c]
        if grey:
            red, green, blue = np.uint32(rgb[i, 0]), np.uint32(rgb[i, 1]), np.uint32(rgb[i, 2])
            stacks[i, channels] = tones[(77 * red + 150 * green + 29 * blue + 128) >> 8]  # weights of 256
        else:
            for c in range(3):
                stacks[i, channels + c] = rgb[i, c]
