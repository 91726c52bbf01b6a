"""Every test runs offline, without a screen, and on one thread of torch."""

import os

# Before anything imports the libraries that read them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["SDL_VIDEODRIVER"] = "dummy"

import torch

torch.set_num_threads(1)
