"""How a setting changes in the course of a training."""


def ramp(now: float, begin: float, end: float) -> float:
    """0 up to `begin`, 1 from `end` on, a straight line between."""
    return min(max((now - begin) / (end - begin), 0.0), 1.0)
