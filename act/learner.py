"""One update: loss, gradient, clipping, AdamW, learning rate, average of the weights.

As in LeRobot's trainer, with its optimiser, groups and schedules, so that either resumes the other's runs.
What is added: the fused AdamW, an average of the weights (EMA) to evaluate and save, micro-batches, bfloat16,
compilation, and no host sync: the numbers to log stay on the device.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from act.kinds import Batch, find_kind
from act.optimizer import OptimizerConfig, parameter_groups
from common.device import flush_denormals
from common.errors import UserError

# As torch.set_float32_matmul_precision has it.
MATMUL_PRECISION = {"float32": "highest", "tf32": "high", "bf16": "high"}


class Learner:
    """A policy that learns.

    Args:
        policy: on its device.
        pipeline_config: the training in LeRobot's terms: optimiser, schedule, steps.
        config: what LeRobot has no settings for.
        accelerator: of the processes that train together; None: this one trains alone.

    Raises:
        UserError: a batch in micro-batches would be another update.
    """

    def __init__(
        self,
        policy: PreTrainedPolicy,
        pipeline_config: TrainPipelineConfig,
        config: OptimizerConfig,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.config = config
        self.accelerator = accelerator
        optimizer, schedule = pipeline_config.optimizer, pipeline_config.scheduler
        assert optimizer is not None  # `make_pipeline_config` and `saved_pipeline_config` see to it
        self.grad_clip = optimizer.grad_clip_norm
        self.step = 0  # updates so far
        self._measured_at = -1  # step
        torch.set_float32_matmul_precision(MATMUL_PRECISION[config.precision])
        torch.backends.cudnn.allow_tf32 = config.precision != "float32"
        torch.backends.cudnn.benchmark = True  # shapes do not change
        flush_denormals()

        self.kind = find_kind(policy.config.type)
        self.metrics = (*self.kind.metrics, "Loss/gradient_norm")  # of an update, TensorBoard's names
        self.policy = policy.train()
        self.kind.speed_up(policy)
        self.averaged = deepcopy(policy).eval() if config.ema else policy
        self.device = next(policy.parameters()).device
        settings = {k: v for k, v in asdict(optimizer).items() if k != "grad_clip_norm"}
        groups, self.num_known = parameter_groups(policy)
        parameters = [parameter for group in groups for parameter in group["params"]]
        self.trained = {i for i, p in enumerate(parameters[: self.num_known]) if p.requires_grad}
        self.trains_batch_norms = self.num_known < len(list(policy.parameters()))
        if self.trains_batch_norms and config.micro_batches > 1:
            raise UserError(
                "optimizer.micro_batches must be 1 where batch norms are trained, which look at the whole "
                f"batch, got {config.micro_batches}"
            )
        self.optimizer = torch.optim.AdamW(groups, fused=True, **settings)
        self.scheduler = schedule.build(self.optimizer, pipeline_config.steps) if schedule else None

        self.loss: Any = self.kind.make_loss(policy)
        if accelerator and accelerator.num_processes > 1:
            self.loss = accelerator.prepare_model(self.loss)
        if config.compile:
            mode = "reduce-overhead" if self.device.type == "cuda" else "default"
            self.loss = torch.compile(self.loss, mode=mode, dynamic=False)

    def update(self, batch: Batch) -> torch.Tensor:
        """Learn from a batch.

        Args:
            batch: normalised, as from `act.frames.Frames.batch`.

        Returns:
            the numbers that `metrics` names, on the device.
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

    def _gradient(self, batch: Batch) -> torch.Tensor:
        size, action_size = batch["action"].shape[0], batch["action"].shape[2]
        num_valid = ((~batch["action_is_pad"]).sum() * action_size).clamp_min(1)
        per_micro_batch = -(-size // self.config.micro_batches)
        starts = range(0, size, per_micro_batch)
        losses = torch.zeros(len(self.kind.metrics), device=self.device)
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
        pairs = zip(self.averaged.parameters(), self.policy.parameters(), strict=True)
        averages, weights = zip(*[pair for pair in pairs if pair[1].requires_grad], strict=True)
        torch._foreach_lerp_(averages, weights, weight=1.0 - decay)

    def measure_norms(self, batches: Iterable[Batch]) -> None:
        """Give the average the statistics that its own batch norms see.

        Those of the weights are of larger activations: with them the average was more than twice as far from
        the demonstrations as the weights it is of. As in Izmailov et al. 2018, "Averaging Weights Leads to
        Wider Optima and Better Generalization" (arXiv 1803.05407), they are measured anew.

        Args:
            batches: to measure them on, as for `update`.
        """
        if not (self.config.ema and self.trains_batch_norms) or self._measured_at == self.step:
            return
        self.kind.measure_norms(self.averaged, batches)
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

    def load_moments(self, known: dict[str, Any], norms: dict[str, torch.Tensor]) -> None:
        """Restore `moments`. The learning rates are not among them: they follow from the step.

        Raises:
            ValueError: the optimiser was another policy's.
        """
        state = {int(index): values for index, values in known.get("state", {}).items()}
        if state and state.keys() != self.trained:  # none after no update
            raise ValueError(f"it has the moments of {len(state)} tensors, not of {len(self.trained)}")
        for key, value in norms.items():
            index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        _check_moments(self.optimizer)

    def continue_at(self, step: int) -> None:
        """Count this many updates as done, and set the learning rates accordingly."""
        self.step = step
        if isinstance(self.scheduler, LambdaLR):  # as all of LeRobot's
            self.scheduler.last_epoch, self.scheduler._step_count = step, step + 1
            rates = zip(self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True)
            self.scheduler._last_lr = [lr * scale(step) for lr, scale in rates]
            for group, lr in zip(self.optimizer.param_groups, self.scheduler._last_lr, strict=True):
                group["lr"] = lr


def _check_moments(optimizer: torch.optim.Optimizer) -> None:
    """Raise ValueError where the state that an Adam has loaded is not that of its parameters."""
    for parameter, moments in optimizer.state.items():
        shapes = {name: value.shape for name, value in moments.items()}
        if shapes != dict.fromkeys(("exp_avg", "exp_avg_sq"), parameter.shape) | {"step": torch.Size()}:
            raise ValueError(f"the optimiser's moments are not those of a tensor {tuple(parameter.shape)}")
        if not all(value.isfinite().all() for value in moments.values()):
            raise ValueError("the optimiser's moments are not finite")
