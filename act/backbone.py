"""The ResNet of LeRobot's ACT: ImageNet's weights, and batch norms that train.

LeRobot's ResNet has frozen batch norms, which from scratch are none at all. `train_batch_norms` puts real
ones in their place, and `freeze_batch_norms` freezes them again for the checkpoint: the same four tensors.
"""

import os
import socket
from copy import deepcopy
from pathlib import Path
from pickle import UnpicklingError
from typing import Literal
from urllib.error import URLError

import torch
from lerobot.policies.act.modeling_act import ACTPolicy
from torch import nn
from torchvision.models import get_model_weights
from torchvision.ops.misc import FrozenBatchNorm2d

from common.errors import UserError, reason

DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer


def train_batch_norms(policy: ACTPolicy) -> None:
    """Put real batch norms in the place of the ResNet's frozen ones, with their values."""
    _replace_norms(policy, FrozenBatchNorm2d, nn.BatchNorm2d)


def freeze_batch_norms(policy: ACTPolicy) -> ACTPolicy:
    """The policy as LeRobot opens it, with frozen batch norms; a copy where it has others.

    Nothing is drawn from the random generators, so that saving does not change the training.
    """
    if not any(isinstance(module, nn.BatchNorm2d) for module in policy.modules()):
        return policy
    exported = deepcopy(policy)
    _replace_norms(exported, nn.BatchNorm2d, FrozenBatchNorm2d)
    return exported.eval()


def _replace_norms(policy: ACTPolicy, old: type[nn.Module], new: type[nn.Module]) -> None:
    for parent in list(policy.model.backbone.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, old):
                tensors = norm.state_dict()
                replacement = new(len(tensors["weight"]), eps=norm.eps)
                replacement.load_state_dict(tensors, strict=False)  # one kind counts its updates
                setattr(parent, name, replacement.to(tensors["weight"].device))


def load_imagenet(policy: ACTPolicy, wanted: Literal["auto", "imagenet", "none"]) -> bool:
    """Give the ResNet its ImageNet weights, from the disk or the network, if it is to have them.

    Returns:
        whether it has them now.

    Raises:
        UserError: they are wanted by name and cannot be had, or are damaged.
    """
    if wanted == "none" or not policy.config.image_features:
        return False
    url = get_model_weights(policy.config.vision_backbone)["IMAGENET1K_V1"].url
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name
    try:
        if not file.exists():
            _download(url, file)
        weights = torch.load(file, map_location="cpu", weights_only=True)
        weights = {name: weight for name, weight in weights.items() if not name.startswith("fc.")}
        policy.model.backbone.load_state_dict(weights)
    except (OSError, URLError, RuntimeError, UnpicklingError) as error:
        if file.exists():
            raise UserError(f"{file}: damaged, delete it ({reason(error)})") from None
        if wanted == "auto":
            return False
        raise UserError(f"{file}: not here, and {url} cannot be had: {reason(error)}") from None
    return True


def _download(url: str, file: Path) -> None:
    if os.environ.get("HF_HUB_OFFLINE", "0").upper() in ("1", "ON", "YES", "TRUE"):
        raise OSError("HF_HUB_OFFLINE is set")
    file.parent.mkdir(parents=True, exist_ok=True)
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(DOWNLOAD_TIMEOUT)
    try:
        hash_prefix = file.stem.rpartition("-")[2]
        torch.hub.download_url_to_file(url, str(file), hash_prefix, progress=False)
    finally:
        socket.setdefaulttimeout(before)
