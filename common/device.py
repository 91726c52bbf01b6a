"""Which device a script computes on."""

import torch

from common.errors import UserError


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA when there is one, else the CPU; mps has to be named.

    Raises:
        UserError: the device asked for is not here.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        name = next(device for device in ("cuda", "cpu") if available[device])
    if not available[name]:
        raise UserError(f"device {name} was asked for, but PyTorch finds none here: use --device cpu")
    return torch.device(name)
