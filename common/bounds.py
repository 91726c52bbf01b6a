"""Bounds of numeric settings: `lr: Annotated[float, Above(0, 1e3)] = 3e-4` in a config class.

Upper bounds are no recommendations: beyond them a script would hang or overflow.
"""

import math
from dataclasses import dataclass
from typing import Annotated, Any

from common.errors import show

MOST_ITEMS = 1_000  # of a list
SMALLEST, LARGEST = 1e-30, 1e30  # of a float's size but 0, which float32 holds with room for products


@dataclass(frozen=True)
class Between:
    """From `least` to `most`."""

    least: float
    most: float

    def complaint(self, number: float) -> str:
        """What the number must be; empty if it is."""
        if not self.too_small(number) and number <= self.most:
            return ""
        if (self.least, self.most) == (0, 1):
            return "must be between 0 and 1"
        return self.lowest() if self.too_small(number) else f"must be at most {self.most}"

    def too_small(self, number: float) -> bool:
        return number < self.least

    def lowest(self) -> str:
        return f"must be at least {self.least}" if self.least else "must not be negative"


class Above(Between):
    """More than `least`, up to `most`."""

    def too_small(self, number: float) -> bool:
        return number <= self.least

    def lowest(self) -> str:
        return f"must be more than {self.least}" if self.least else "must be positive"


class Below(Between):
    """From `least`, less than `most`."""

    def complaint(self, number: float) -> str:
        if self.least <= number < self.most:
            return ""
        return f"must be at least {self.least} and less than {self.most}"


Share = Annotated[float, Between(0, 1)]
ShareBelow1 = Annotated[float, Below(0, 1)]
Positive = Annotated[float, Above(0, 1e30)]
NotNegative = Annotated[float, Between(0, 1e30)]
NotNegativeEach = Annotated[float | tuple[float, ...], Between(0, 1e30)]  # of all axes, or one of each
Side = Annotated[int, Between(8, 512)]  # of a picture that a network sees, in pixels
Seed = Annotated[int, Between(0, 2**62)]
Steps = Annotated[int, Between(0, 10**12)]
Count = Annotated[int, Between(1, 10**7)]  # of what is played, recorded or drawn
CountOrZero = Annotated[int, Between(0, 10**7)]  # the same, or 0
Several = Annotated[int, Between(1, 1_000)]  # of what is computed one after the other
ParallelEnvs = Annotated[int, Between(1, 10_000)]  # environments stepped together
Horizon = Annotated[int, Between(1, 10_000)]  # steps ahead
Width = Annotated[int, Between(1, 2**17)]  # of a layer
Widths = Annotated[tuple[int, ...], Between(1, 2**16)]  # of several
Depth = Annotated[int, Between(1, 100)]  # layers
MOST_THREADS = 256  # each takes 8 MB; where they cannot be had, PyTorch ends at once
Threads = Annotated[int, Between(0, MOST_THREADS)]
ANY_INT = Between(-(10**15), 10**15)


def complaint(value: Any, kind: Any) -> str:
    """What a setting must be, and what it is; empty where its numbers are as its type says.

    Args:
        value: a number, a tuple or list of numbers, or anything else, about which nothing is said.
        kind: its type, with its bounds if it has any: `Annotated[float, Between(0, 1)]`.
    """
    numbers = value if isinstance(value, tuple | list) else (value,)
    if len(numbers) > MOST_ITEMS:
        return f"must have at most {MOST_ITEMS} items, got {len(numbers)}"
    bounds = [bound for bound in getattr(kind, "__metadata__", ()) if isinstance(bound, Between)]
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if isinstance(number, float) and not math.isfinite(number):
            return f"must be a finite number, got {number}"
        for bound in bounds or ([ANY_INT] if isinstance(number, int) else []):
            if said := bound.complaint(number):
                return f"{said}, got {show(number)}"
        if isinstance(number, float) and number and not SMALLEST <= abs(number) <= LARGEST:
            return f"must be 0 or from {SMALLEST:g} to {LARGEST:g} in size, got {number}"
    return ""
