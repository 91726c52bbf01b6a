"""`torch.compile` for a whole update: losses, gradients and optimiser in one graph."""

import logging
import shutil
from collections.abc import Callable
from typing import Any

import torch

# Compiling takes 10 to 30 s of an idle core and saves 2 to 5 ms per update: 15,000 updates took 157 s in all,
# and 230 s uncompiled. From pictures it takes up to 50 s and saves 20 to 30 ms of the 90 to 140 of an update
# of 128 (48 x 48 x 3 and 64 x 64 x 3, one thread).
PAYS_FROM_UPDATES, PAYS_FROM_PIXEL_UPDATES = 10_000, 5_000


def pays(updates: int, device: torch.device, from_pictures: bool = False) -> bool:
    """Whether a training of this many updates is worth compiling for, and there is a compiler."""
    least = PAYS_FROM_PIXEL_UPDATES if from_pictures else PAYS_FROM_UPDATES
    return updates >= least and (device.type == "cuda" or shutil.which("g++") is not None)


def compiled[**P, R](update: Callable[P, R], device: torch.device) -> Callable[P, R]:
    """The same update as one graph, compiled at the first call; on a GPU replayed as a CUDA graph."""
    torch._dynamo.config.trace_autograd_ops = True  # the gradients are taken within the graph
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # warns of machines without a GPU
    options: dict[str, Any] = {"triton.cudagraphs": True}
    if device.type != "cuda":
        options = {"cpp_wrapper": True, "cpp.threads": 1}  # the loops between the products are short
    return torch.compile(update, fullgraph=True, dynamic=False, options=options)
