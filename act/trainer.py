"""The training loop: draw a batch, update, log, evaluate, save; and how a run goes on after a stop.

The loop never waits for the device but to log. Of several processes (`accelerate launch`) the first one logs,
evaluates and saves, while the others wait.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from lerobot.configs.train import TrainPipelineConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from tqdm import tqdm

from act import checkpoint as act_checkpoint
from act.frames import Frames, Order
from act.learner import METRICS, Learner
from common.checkpoint import Checkpoints, save_json
from common.errors import UserError, reason
from common.logger import Logger
from envs.summary import scalars

NORM_SAMPLES = 1_024  # on which the average's batch norms are measured


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop. All counts are updates, "steps" in LeRobot's terms."""

    log_freq: int = 100  # steps between logged losses
    eval_freq: int = 5_000  # steps between evaluations, each followed by a checkpoint; 0: only at the end
    save_freq: int = 0  # steps between checkpoints that stay; 0: only `last` and `best`
    video_freq: int = 20_000  # steps between rollouts shown in TensorBoard; 0: none
    eval_episodes: int = 100  # per evaluation, the same seeds each time
    eval_seed: int = 10_000  # first of them; no figure we quote uses these

    def validate(self) -> None:
        for name in ("log_freq", "eval_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("eval_freq", "save_freq", "video_freq", "eval_seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


class Trainer:
    """Trains a policy on a dataset.

    Args:
        config: of the loop.
        lerobot: the training in LeRobot's terms; its steps, batch size and seed are those of the loop.
        learner: learns.
        frames: what it learns from.
        processors: LeRobot's, before and after the policy.
        evaluate: policy -> numbers as of `envs.summary.summarize`.
        record: policy -> frames (T, H, W, 3) uint8 of one episode.
        folder: of the run.
        accelerator: knows the other processes.
    """

    def __init__(
        self,
        config: TrainingConfig,
        lerobot: TrainPipelineConfig,
        learner: Learner,
        frames: Frames,
        processors: tuple[Any, Any],
        evaluate: Callable[[ACTPolicy], dict[str, Any]],
        record: Callable[[ACTPolicy], np.ndarray],
        folder: Path,
        accelerator: Accelerator,
    ) -> None:
        self.config = config
        self.lerobot = lerobot
        self.learner = learner
        self.frames = frames
        self.processors = processors
        self.evaluate = evaluate
        self.record = record
        self.checkpoints = Checkpoints(folder / "checkpoints", "step")
        self.accelerator = accelerator
        self.is_main = accelerator.is_main_process

        self._check_last_batch()
        processes = accelerator.num_processes, accelerator.process_index
        self.order = Order(frames.num_frames, lerobot.batch_size, lerobot.seed, *processes)
        self.samples_per_step = lerobot.batch_size * accelerator.num_processes
        self.epoch = 0
        self.drawn = 0  # samples of this epoch that have been learnt from, by all processes
        self._batches: list[torch.Tensor] = []  # that are left of this epoch, the next one last
        self._sums = torch.zeros(len(METRICS), device=learner.device)  # since the latest logging
        self._summed = 0  # updates
        self._metrics: dict[str, float] = {}  # the latest logged
        self._rate = (0.0, 0)  # time and step of the latest logging
        self.evaluation: dict[str, Any] = {}  # the latest

    def _check_last_batch(self) -> None:
        """Batch norms cannot be trained on one small picture, which may be what an epoch ends with."""
        lerobot, count = self.lerobot, self.frames.num_frames
        small = any(max(f.shape[1:]) <= 32 for f in lerobot.policy.image_features.values())
        fills_up = self.accelerator.num_processes > 1 and lerobot.batch_size > 1  # an epoch's last batches
        one_left = (count - 1) % lerobot.batch_size == 0
        if self.learner.trains_batch_norms and small and one_left and not fills_up:
            raise UserError(
                f"batch_size {lerobot.batch_size} leaves one of {count:,} frames for the last batch, and "
                "batch norms cannot be trained on one small picture: choose another batch_size"
            )

    @property
    def step(self) -> int:
        """Updates so far."""
        return self.learner.step

    def train(self, logger: Logger | None, stop: Callable[[], bool]) -> bool:
        """Train up to `lerobot.steps`, or until `stop` says so; either way everything is saved.

        Args:
            logger: of the main process.
            stop: asked before each update.

        Returns:
            whether the training is finished.

        Raises:
            UserError: a loss is not finite, or a checkpoint cannot be written.
        """
        if self.is_main:
            self.checkpoints.tidy()
        total = self.lerobot.steps
        self._rate = perf_counter(), self.step
        with self._progress_bar() as bar:
            while self.step < total and not self._stops(stop):
                self._learn()
                bar.update()
                if self.step % self.config.log_freq == 0 or self.step == total:
                    self._log(logger)
                    bar.set_postfix_str(self._status())
                if self._due(self.config.eval_freq) or self.step == total:
                    self._evaluate(logger)
                    if self.is_main:
                        bar.write(self._evaluation_line())
                elif self._due(self.config.save_freq):
                    self.save()
        self.save()
        return self.step >= total

    def _learn(self) -> None:
        if not self._batches:
            self._batches = self.order.epoch(self.epoch, self.drawn)[::-1]
            if not self.drawn:
                # LeRobot's loader draws its workers' seed, which moves the CPU's dropout masks on.
                torch.empty((), dtype=torch.int64).random_()
        metrics = self.learner.update(self.frames.batch(self._batches.pop()))
        self._sums += metrics
        self._summed += 1
        self.drawn += self.samples_per_step
        if not self._batches:
            self.epoch, self.drawn = self.epoch + 1, 0

    def _due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def _stops(self, stop: Callable[[], bool]) -> bool:
        """All processes stop at the same step, so several ask each other, and not at every one."""
        if self.accelerator.num_processes == 1:
            return stop()
        if self.step % self.config.log_freq:
            return False
        wishes = torch.tensor(float(stop()), device=self.learner.device)
        return self.accelerator.reduce(wishes).item() > 0

    def _log(self, logger: Logger | None) -> None:
        means = self.accelerator.reduce(self._sums / max(self._summed, 1), reduction="mean").tolist()
        self._metrics = dict(zip(METRICS, means, strict=True))
        self._sums.zero_()
        self._summed = 0
        self._check_finite()
        then, step = self._rate
        self._rate = perf_counter(), self.step
        rate = (self.step - step) / max(self._rate[0] - then, 1e-9)
        self._metrics["Throughput/samples_per_s"] = rate * self.samples_per_step
        self._metrics["Throughput/steps_per_s"] = rate
        if logger:
            lr = {"Optimizer/lr": self.learner.optimizer.param_groups[0]["lr"]}
            logger.log(self.step, self._metrics | lr)

    def _evaluate(self, logger: Logger | None) -> None:
        """Play the evaluation's episodes with the average of the weights, log, and save."""
        started = perf_counter()
        if self.is_main:
            self._measure_norms()
            policy = self.learner.averaged
            self.evaluation = self.evaluate(policy) | {"step": self.step}
            logger.log(self.step, scalars(self.evaluation))
            if self.config.video_freq and (
                self._due(self.config.video_freq) or self.step == self.lerobot.steps
            ):
                logger.video(self.step, self.record(policy))
            if _merit(self.evaluation) >= _merit(self.checkpoints.best):
                self.checkpoints.best = self.evaluation
        self.save()
        self._rate = self._rate[0] + perf_counter() - started, self._rate[1]

    def _measure_norms(self) -> None:
        """On frames from all over the dataset, always the same ones."""
        last, count = self.frames.num_frames - 1, min(NORM_SAMPLES, self.frames.num_frames)
        spread = torch.linspace(0, last, count, dtype=torch.float64).long()
        batches = max(count // self.lerobot.batch_size, 1)
        self.learner.measure_norms(self.frames.batch(spread[first::batches]) for first in range(batches))

    def _check_finite(self) -> None:
        for name, value in self._metrics.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name} is not finite after {self.step:,} steps: try a smaller optimizer.lr or "
                    f"optimizer.grad_clip; the checkpoints in {self.checkpoints.folder} are from before"
                )

    def _progress_bar(self) -> tqdm:
        """On a terminal; elsewhere the lines of the evaluations have to do."""
        return tqdm(
            total=self.lerobot.steps,
            initial=self.step,
            unit="step",
            smoothing=0.05,
            dynamic_ncols=True,
            disable=None if self.is_main else True,
        )

    def _status(self) -> str:
        """What matters first, for a narrow terminal cuts the end off."""
        loss, l1, kl = (self._metrics[name] for name in METRICS[:3])
        success = f", success {100 * self.evaluation['success_rate']:.0f}%" if self.evaluation else ""
        rate = self._metrics["Throughput/samples_per_s"]
        return f"loss {loss:.4f}, l1 {l1:.4f}{success}, kl {kl:.4f}, {rate:,.0f} samples/s"

    def _evaluation_line(self) -> str:
        steps = self.evaluation["mean_steps_to_success"]
        l1 = f", l1 {self._metrics[METRICS[1]]:.4f}" if self._metrics else ""  # not logged yet
        return (
            f"{self.step:>9,} steps: success {100 * self.evaluation['success_rate']:5.1f} %, "
            f"max coverage {self.evaluation['mean_max_coverage']:.3f}, "
            f"steps to success {'-' if steps is None else f'{steps:.1f}'}{l1}"
        )

    def save(self) -> None:
        """Write a checkpoint, let `last` lead to it and `best` to the best one up to here.

        Raises:
            UserError: a weight is not finite, or it cannot be written; the earlier ones are intact.
        """
        if self.is_main:
            if not all(parameter.isfinite().all() for parameter in self.learner.policy.parameters()):
                raise UserError(
                    f"a weight is not finite after {self.step:,} steps: try a smaller optimizer.lr; "
                    f"the checkpoints in {self.checkpoints.folder} are from before"
                )
            if self._due(self.config.save_freq):
                self.checkpoints.keep(self.step)
            self._measure_norms()
            self.checkpoints.save(self.step, self._write)
        self.accelerator.wait_for_everyone()

    def _write(self, folder: Path) -> None:
        state = {
            "epoch": self.epoch,
            "drawn": self.drawn,
            "summed": self._summed,
            "metrics": {name: self._metrics[name] for name in METRICS if name in self._metrics},
            "evaluation": self.evaluation,
            "best": self.checkpoints.best,
            "kept": self.checkpoints.kept,
            "dataset": self.frames.fingerprint,
            "trains_batch_norms": self.learner.trains_batch_norms,
        }
        processes = self.accelerator.num_processes
        act_checkpoint.write(
            folder, self.learner, self.processors, self.lerobot, processes, state, {"sums": self._sums}
        )
        save_json(folder / "evaluation.json", self.evaluation)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint as if the training had not stopped; from LeRobot's, as nearly as it allows.

        From another run's checkpoint the training may go on with other data.

        Raises:
            UserError: it is not whole, not of this configuration, or not of this dataset.
        """
        state, tensors = act_checkpoint.read(folder, self.learner)
        ours = folder.resolve().parent == self.checkpoints.folder.resolve()  # and not another run's
        if ours:
            told = state or act_checkpoint.read_latest_of_ours(self.checkpoints.folder)
            self.checkpoints.best, self.checkpoints.kept = told.get("best", {}), told.get("kept", [])
        if not state:
            where = act_checkpoint.read_position(folder, self.frames.num_frames, self.lerobot.batch_size)
            self.epoch, self.drawn = where["epoch"], where["start_index"]
            return
        same_data = state.get("dataset") == self.frames.fingerprint
        if not same_data and not ours:
            return  # other data begins with its first epoch
        if not same_data:
            raise UserError(
                f"{folder}: trained on another dataset than the one that is there now: bring that back, "
                "or begin anew with another --run-name or --no-resume"
            )
        try:
            self.epoch, self.drawn, self._summed = state["epoch"], state["drawn"], state["summed"]
            self._metrics, self.evaluation = state["metrics"], state["evaluation"]
            self._sums.copy_(tensors["sums"])
        except (KeyError, RuntimeError, TypeError) as error:
            raise UserError(f"{folder}: not the state of such a training: {reason(error)}") from None


def _merit(evaluation: dict[str, Any]) -> tuple[float, float]:
    """What makes a checkpoint the best; among equals the latest."""
    return evaluation.get("success_rate", -1.0), evaluation.get("mean_max_coverage", -1.0)
