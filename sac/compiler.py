"""`torch.compile` for a whole update: losses, gradients and optimiser in one graph."""

import logging
import shutil
from collections.abc import Callable
from typing import Any

import torch

PAYS_FROM_UPDATES = 20_000  # compiling takes 10 to 30 s of an idle core and saves 2 ms per update


def pays(updates: int, device: torch.device, from_pictures: bool = False) -> bool:
    """Whether a training of this many updates is worth compiling for, and there is a compiler.

    From pictures it is not on a CPU: convolutions take the time, and they are calls of the same library.
    """
    if from_pictures and device.type != "cuda":
        return False
    return updates >= PAYS_FROM_UPDATES and (device.type == "cuda" or shutil.which("g++") is not None)


def compiled[**P, R](update: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """The same update as one graph, compiled at the first call; on a GPU replayed as a CUDA graph."""
    torch._dynamo.config.trace_autograd_ops = True  # the gradients are taken within the graph
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of machines without a GPU
    options: dict[str, Any] = {"triton.cudagraphs": True}
    if device.type != "cuda":
        options = {"cpp_wrapper": True, "cpp.threads": 1}  # the loops between the products are short
    return torch.compile(update, fullgraph=True, dynamic=False, options=options)
