"""One update of ACT: loss, gradient, clipping, AdamW, learning rate, average of the weights.

As in LeRobot's trainer, with its optimiser, groups and schedules, so that either can go on where the other
stopped. What is added: the fused AdamW, an average of the weights (EMA) to evaluate and save, batches
computed in micro-batches, bfloat16, compilation, and no host sync: the numbers to log stay on the device.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from lerobot.configs.train import TrainPipelineConfig
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import (
    ConstantWithWarmupSchedulerConfig,
    CosineDecayWithWarmupSchedulerConfig,
    LRSchedulerConfig,
)
from lerobot.policies.act.modeling_act import ACTPolicy
from torch import nn
from torch.optim.swa_utils import update_bn

from act.policy import Loss, skip_attention_weights
from common.errors import UserError

METRICS = ("Loss/total", "Loss/l1", "Loss/kl", "Loss/gradient_norm")
MATMUL_PRECISION = {
    "float32": "highest",
    "tf32": "high",
    "bf16": "high",
}  # as torch.set_float32_matmul_precision has it


@dataclass(frozen=True)
class OptimizerConfig:
    """How the weights follow the gradient; the defaults are LeRobot's unless they say otherwise."""

    lr: float = 1e-4  # learning rate; LeRobot's 1e-5 suits its batch of 8
    lr_backbone: float = 1e-4  # of the ResNet
    weight_decay: float = 1e-4  # AdamW's, on everything
    grad_clip: float = 10.0  # largest norm of the whole gradient
    schedule: Literal["constant", "cosine"] = "cosine"  # of the learning rates; LeRobot's is constant
    final_lr_fraction: float = 0.01  # of lr, where the cosine ends
    warmup_steps: int = 500  # during which the learning rates grow linearly
    ema: float = 0.999  # of the average of the weights that is evaluated and saved; 0: no average
    precision: Literal["float32", "tf32", "bf16"] = "tf32"  # of matrix products; tf32 exists on GPUs only
    micro_batches: int = 1  # in which a batch's gradient is accumulated; the same update in less memory
    compile: bool = False  # torch.compile the loss and its gradient (with CUDA graphs on a GPU)

    def validate(self) -> None:
        for name in ("lr", "grad_clip", "micro_batches"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("lr_backbone", "weight_decay", "warmup_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 0.0 <= self.ema < 1.0:
            raise ValueError(f"ema must be at least 0 and less than 1, got {self.ema}")
        if not 0.0 <= self.final_lr_fraction <= 1.0:
            raise ValueError(f"final_lr_fraction must be between 0 and 1, got {self.final_lr_fraction}")

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


class Learner:
    """A policy that learns.

    Args:
        policy: on its device.
        pipeline_config: the training in LeRobot's terms: optimiser, schedule, steps.
        config: what LeRobot has no settings for.
        accelerator: knows the other processes, if there are any.

    Raises:
        UserError: a batch in micro-batches would be another update.
    """

    def __init__(
        self,
        policy: ACTPolicy,
        pipeline_config: TrainPipelineConfig,
        config: OptimizerConfig,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        self.grad_clip = pipeline_config.optimizer.grad_clip_norm
        self.step = 0  # updates so far
        self._measured_at = -1  # step
        torch.set_float32_matmul_precision(MATMUL_PRECISION[config.precision])
        torch.backends.cudnn.allow_tf32 = config.precision != "float32"
        torch.backends.cudnn.benchmark = True  # shapes do not change
        torch.set_flush_denormal(True)  # Adam's moments decay into denormals, which CPUs handle slowly

        self.policy = policy.train()
        skip_attention_weights(policy)
        self.averaged = deepcopy(policy).eval() if config.ema else policy
        self.device = next(policy.parameters()).device
        settings = {k: v for k, v in asdict(pipeline_config.optimizer).items() if k != "grad_clip_norm"}
        groups, self.num_known = parameter_groups(policy)
        self.trains_batch_norms = self.num_known < len(list(policy.parameters()))
        if self.trains_batch_norms and config.micro_batches > 1:
            raise UserError(
                "optimizer.micro_batches must be 1 where batch norms are trained, which look at the whole "
                f"batch, got {config.micro_batches}"
            )
        self.optimizer = torch.optim.AdamW(groups, fused=True, **settings)
        schedule, steps = pipeline_config.scheduler, pipeline_config.steps
        self.scheduler = schedule.build(self.optimizer, steps) if schedule else None

        self.loss: nn.Module = Loss(policy)
        if accelerator and accelerator.num_processes > 1:
            self.loss = accelerator.prepare_model(self.loss)
        if config.compile:
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self.loss = torch.compile(self.loss, mode=mode, dynamic=False)

    def update(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Learn from a batch.

        Args:
            batch: normalised, as from `act.frames.Frames.batch`.

        Returns:
            the numbers (4,) that `METRICS` names, on the device.
        """
        self.policy.train()
        losses = self._gradient(batch)
        norm = nn.utils.clip_grad_norm_(self.policy.parameters(), self.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.scheduler:
            self.scheduler.step()
        self.step += 1
        if self.config.ema:
            self._average()
        return torch.cat([losses, norm[None]])

    def _gradient(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        size, action_size = batch["action"].shape[0], batch["action"].shape[2]
        num_valid = ((~batch["action_is_pad"]).sum() * action_size).clamp_min(1)
        per_micro_batch = -(-size // self.config.micro_batches)
        starts = range(0, size, per_micro_batch)
        losses = torch.zeros(3, device=self.device)
        for start in starts:
            piece = {name: tensor[start : start + per_micro_batch] for name, tensor in batch.items()}
            last = start == starts[-1]
            # Processes exchange gradients once per update.
            with nullcontext() if last or not self.accelerator else self.accelerator.no_sync(self.loss):
                with torch.autocast(
                    self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"
                ):
                    loss = self.loss(piece, num_valid, size)
                loss[0].backward()
            losses += loss.detach()
        return losses

    @torch.no_grad()
    def _average(self) -> None:
        """Move the average towards the weights, at first faster, for they come from nowhere."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(
            list(self.averaged.parameters()), list(self.policy.parameters()), weight=1.0 - decay
        )

    def measure_norms(self, batches: Iterable[dict[str, torch.Tensor]]) -> None:
        """Give the average the statistics that its own batch norms see.

        Those of the weights are of larger activations: with them the average was more than twice as far from
        the demonstrations as the weights it is of. As in Izmailov et al. 2018, "Averaging Weights Leads to
        Wider Optima and Better Generalization" (arXiv 1803.05407), they are measured anew.

        Args:
            batches: to measure them on, as for `update`.
        """
        if not (self.config.ema and self.trains_batch_norms) or self._measured_at == self.step:
            return
        cameras = list(self.policy.config.image_features)
        pictures = (batch[camera] for batch in batches for camera in cameras)
        update_bn(pictures, self.averaged.model.backbone)
        self._measured_at = self.step

    def moments(self) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
        """The optimiser's state: in LeRobot's form without the batch norms, and theirs by name."""
        state = self.optimizer.state_dict()
        known = {index: moments for index, moments in state["state"].items() if index < self.num_known}
        norms = {
            f"{index}.{name}": value
            for index, moments in state["state"].items()
            if index >= self.num_known
            for name, value in moments.items()
        }
        # LeRobot opens only what has the very types of its own optimiser, which is not fused.
        groups = [
            group | {"fused": None, "params": [index for index in group["params"] if index < self.num_known]}
            for group in state["param_groups"]
        ]
        return {"state": known, "param_groups": groups}, norms

    def load_moments(self, lerobot: dict[str, Any], norms: dict[str, torch.Tensor]) -> None:
        """Go on from `moments`; the learning rates are not among them, they follow from the step.

        Raises:
            ValueError: the optimiser was another policy's.
        """
        if len(lerobot["state"]) not in (0, self.num_known):
            raise ValueError(
                f"it has the moments of {len(lerobot['state'])} tensors, not of {self.num_known}"
            )
        state = {int(index): moments for index, moments in lerobot["state"].items()}
        for key, value in norms.items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def continue_at(self, step: int) -> None:
        """Count this many updates as done, and set the learning rates accordingly."""
        self.step = step
        if self.scheduler:
            self.scheduler.last_epoch, self.scheduler._step_count = step, step + 1
            rates = zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
            self.scheduler._last_lr = [lr * scale(step) for lr, scale in rates]
            for group, lr in zip(self.optimizer.param_groups, self.scheduler._last_lr, strict=True):
                group["lr"] = lr


def parameter_groups(policy: ACTPolicy) -> tuple[list[dict[str, Any]], int]:
    """LeRobot's groups, with the batch norms at the very end, and how many tensors stand before those."""
    norms = [
        parameter
        for module in policy.modules()
        if isinstance(module, nn.BatchNorm2d)
        for parameter in module.parameters()
    ]
    others, backbone = policy.get_optim_params()
    ours = {id(parameter) for parameter in norms}
    known = [parameter for parameter in backbone["params"] if id(parameter) not in ours]
    groups = [others, backbone | {"params": known + norms}]
    return groups, len(others["params"]) + len(known)
