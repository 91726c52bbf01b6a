"""How the weights follow the gradient: AdamW and its schedules, under LeRobot's names and in its groups."""

from dataclasses import dataclass
from typing import Any, Literal

from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import (
    ConstantWithWarmupSchedulerConfig,
    CosineDecayWithWarmupSchedulerConfig,
    LRSchedulerConfig,
)
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import nn

from common.bounds import NotNegative, Positive, Several, Share, ShareBelow1, Steps


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights follow the gradient; the defaults are LeRobot's unless they say otherwise."""

    lr: Positive = 1e-4  # learning rate; LeRobot's 1e-5 suits its batch of 8
    lr_backbone: NotNegative = 1e-4  # of ACT's ResNet; no other kind has one of its own
    weight_decay: NotNegative = 1e-4  # AdamW's, on everything
    grad_clip: Positive = 10.0  # largest norm of the whole gradient
    schedule: Literal["constant", "cosine"] = "cosine"  # of the learning rates; LeRobot's is constant
    final_lr_fraction: Share = 0.01  # of lr, where the cosine ends
    warmup_steps: Steps = 500  # during which the learning rates grow linearly
    ema: ShareBelow1 = 0.999  # of the average of the weights that is evaluated and saved; 0: no average
    precision: Literal["float32", "tf32", "bf16"] = "tf32"  # of matrix products; tf32 exists on GPUs only
    micro_batches: Several = 1  # in which a batch's gradient is accumulated; the same update in less memory
    compile: bool = False  # torch.compile the loss and its gradient (with CUDA graphs on a GPU)

    def lerobot_optimizer(self) -> AdamWConfig:
        """AdamW as LeRobot names its settings."""
        return AdamWConfig(lr=self.lr, weight_decay=self.weight_decay, grad_clip_norm=self.grad_clip)

    def lerobot_scheduler(self, steps: int) -> LRSchedulerConfig | None:
        """LeRobot's schedule of the same meaning; None leaves the learning rates alone."""
        if self.schedule == "cosine":
            return CosineDecayWithWarmupSchedulerConfig(
                num_warmup_steps=min(self.warmup_steps, steps),
                num_decay_steps=steps,
                peak_lr=self.lr,
                decay_lr=self.lr * self.final_lr_fraction,
            )
        return ConstantWithWarmupSchedulerConfig(self.warmup_steps) if self.warmup_steps else None


def parameter_groups(policy: PreTrainedPolicy) -> tuple[list[dict[str, Any]], int]:
    """LeRobot's groups, with trained batch norms, which LeRobot's policy does not have, at the very end.

    Returns:
        the groups, and how many tensors stand before the batch norms.
    """
    norms = [
        parameter
        for module in policy.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters()
    ]
    own = {id(parameter) for parameter in norms}
    given = list(policy.get_optim_params())
    groups = [dict(group) for group in given] if isinstance(given[0], dict) else [{"params": given}]
    for group in groups:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in own]
    num_known = sum(len(group["params"]) for group in groups)
    groups[-1]["params"] += norms
    return groups, num_known
