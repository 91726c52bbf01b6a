"""Which device a script computes on, and how it shares the CPU with others."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from common.errors import UserError

OWN_CHOICE = torch.get_num_threads()  # PyTorch's, before anything changes it


def use_threads(count: int) -> None:
    """Let PyTorch compute with so many CPU threads; 0: its own choice, also after another script's."""
    torch.set_num_threads(count or OWN_CHOICE)


@contextmanager
def usual_priority() -> Iterator[None]:
    """Restore the scheduling policy of the calling thread afterwards.

    SVT-AV1, LeRobot's video encoder, leaves a thread of root at SCHED_FIFO, and other programs starve.
    """
    if not hasattr(os, "sched_getscheduler"):  # macOS, Windows
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            os.sched_setscheduler(0, policy, parameters)


def flush_denormals() -> None:
    """Let the CPU take denormals, into which Adam's moments decay, for zeros: it handles them slowly."""
    for kind in ("float32", "float64"):
        np.finfo(kind)  # NumPy measures the smallest one once, and would complain from now on
    torch.set_flush_denormal(True)


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA when there is one, else the CPU; mps has to be named.

    Raises:
        UserError: the device is not available.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device in ("cuda", "cpu") if available[device])
    if not available[name]:
        raise UserError(f"device {name} is not available to PyTorch here: use --device cpu")
    return torch.device(name)
