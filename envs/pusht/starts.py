"""The start that belongs to a seed: what gym-pusht draws from NumPy's generator, compiled.

To build a generator of NumPy and to draw five numbers from it takes several times as long as all else in a
reset. Here are the same integer operations: `SeedSequence` turns the seed into the state of PCG64 (O'Neill
2014, "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
Generation"), whose numbers become integers by Lemire 2019, "Fast Random Integer Generation in an Interval".
NumPy promises not to change `SeedSequence` and PCG64; a test holds all of it to `gym_pusht/PushT-v0`.
"""

import math
import operator
from collections.abc import Sequence

import numpy as np
from numba import njit, uint32, uint64

_POOL = 4  # 32-bit words that a seed is mixed into
_LOW_HALF = uint64(0xFFFFFFFF)
_PCG_HIGH, _PCG_LOW = uint64(2549297995355413924), uint64(4865540595714422341)  # the multiplier's halves


def starts(seeds: Sequence[int]) -> np.ndarray:
    """Agent x, y, block x, y [px] and angle [rad] of gym-pusht's resets with these seeds, (n, 5).

    Raises:
        ValueError: a seed is no integer from 0 to 2^64 - 1.
    """
    try:
        wanted = np.array([operator.index(seed) for seed in seeds], np.uint64)
    except (TypeError, OverflowError):
        raise ValueError(f"seeds must be integers from 0 to 2^64 - 1, got {list(seeds)}") from None
    drawn = np.empty((len(wanted), 5))
    _draw(wanted, drawn)
    return drawn


@njit(cache=True)
def _draw(seeds, drawn):
    for i in range(len(seeds)):
        generator = _generator(seeds[i])
        # A draw has 32 bits, half of a word; the low half comes first.
        word, draw, halves = _next(generator), uint64(0), 0
        for k in range(4):
            low, count = (50, 400) if k < 2 else (100, 300)
            while True:
                if halves == 2:
                    word, halves = _next(generator), 0
                draw = (word >> uint64(32)) if halves else (word & _LOW_HALF)
                halves += 1
                product = draw * uint64(count)
                if (product & _LOW_HALF) >= uint64((2**32 - count) % count):  # the others would be too likely
                    break
            drawn[i, k] = low + (product >> uint64(32))
        unit = (_next(generator) >> uint64(11)) * (1.0 / 2**53)
        drawn[i, 4] = -math.pi + 2 * math.pi * unit


@njit(cache=True)
def _hash(value, constant, multiplier):
    """A 32-bit word mixed with a constant, and the next constant."""
    value ^= constant
    constant = uint32(constant * multiplier)
    value = uint32(value * constant)
    return uint32(value ^ (value >> uint32(16))), constant


@njit(cache=True)
def _generator(seed):
    """PCG64 as NumPy seeds it: state and increment, each of a high and a low half."""
    pool, constant = np.zeros(_POOL, np.uint32), uint32(0x43B0D7E5)
    pool[0], pool[1] = uint32(seed & _LOW_HALF), uint32(seed >> uint64(32))
    for k in range(_POOL):
        pool[k], constant = _hash(pool[k], constant, uint32(0x931E8875))
    for source in range(_POOL):
        for k in range(_POOL):
            if k != source:
                hashed, constant = _hash(pool[source], constant, uint32(0x931E8875))
                mixed = uint32(uint32(0xCA01F9DD) * pool[k] - uint32(0x4973F715) * hashed)
                pool[k] = mixed ^ (mixed >> uint32(16))
    words, constant = np.empty(4, np.uint64), uint32(0x8B51F9DD)
    for k in range(4):
        low, constant = _hash(pool[2 * k % _POOL], constant, uint32(0x58F38DED))
        high, constant = _hash(pool[(2 * k + 1) % _POOL], constant, uint32(0x58F38DED))
        words[k] = uint64(high) << uint64(32) | uint64(low)
    generator = np.empty(4, np.uint64)
    generator[2] = words[2] << uint64(1) | words[3] >> uint64(63)
    generator[3] = words[3] << uint64(1) | uint64(1)
    generator[0], generator[1] = _sum(generator[2], generator[3], words[0], words[1])
    _advance(generator)
    return generator


@njit(cache=True)
def _sum(high, low, other_high, other_low):
    """High and low half of the sum of two 128-bit numbers."""
    total = low + other_low
    return high + other_high + uint64(total < low), total


@njit(cache=True)
def _advance(generator):
    """The next state: the multiplier times this one plus the increment, of 128 bits."""
    high, low = generator[0], generator[1]
    a, b = low >> uint64(32), low & _LOW_HALF
    c, d = _PCG_LOW >> uint64(32), _PCG_LOW & _LOW_HALF
    middle = a * d + (b * d >> uint64(32))
    carry = (middle & _LOW_HALF) + b * c
    above = a * c + (middle >> uint64(32)) + (carry >> uint64(32))
    above += high * _PCG_LOW + low * _PCG_HIGH
    generator[0], generator[1] = _sum(above, low * _PCG_LOW, generator[2], generator[3])


@njit(cache=True)
def _next(generator):
    """The next 64 random bits."""
    _advance(generator)
    value, turn = generator[0] ^ generator[1], generator[0] >> uint64(58)
    return value >> turn | value << (uint64(64) - turn & uint64(63))
