"""Which device a script computes on."""

import numpy as np
import torch

from common.errors import UserError

OWN_CHOICE = torch.get_num_threads()  # PyTorch's, before anything changes it


def use_threads(count: int) -> None:
    """Let PyTorch compute with so many CPU threads; 0: its own choice, also after another script's."""
    torch.set_num_threads(count or OWN_CHOICE)


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
