"""The training loop: draw a batch, update, log, evaluate, save; and the exact resume.

The loop waits for the device only to log. Of several processes (`accelerate launch`) the main one logs,
evaluates and saves, while the others wait.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from accelerate import Accelerator
from lerobot.configs.train import TrainPipelineConfig

from act import checkpoint as act_checkpoint
from act.frames import Frames
from act.learner import Learner
from act.sampler import Sampler
from common.checkpoint import TRAINING_STATE, Checkpoints, save_json
from common.errors import UserError, reason
from common.training import (
    Evaluation,
    Log,
    LoopConfig,
    check_evaluation,
    crossed,
    evaluate,
    evaluation_due,
    progress_bar,
)

NORM_SAMPLES = 1_024  # on which the average's batch norms are measured


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """The training loop. All counts are updates."""


class Trainer:
    """Trains a policy on a dataset.

    Args:
        config: of the loop.
        pipeline_config: the training in LeRobot's terms; its steps, batch size and seed are the loop's.
        learner: learns.
        frames: what it learns from.
        processors: LeRobot's, before and after the policy.
        evaluation: plays the average of the weights; its ranking chooses the best checkpoint.
        folder: of the run.
        accelerator: of the processes that train together.
        task: name of the task, for the checkpoints.
    """

    def __init__(
        self,
        config: TrainingConfig,
        pipeline_config: TrainPipelineConfig,
        learner: Learner,
        frames: Frames,
        processors: tuple[Any, Any],
        evaluation: Evaluation,
        folder: Path,
        accelerator: Accelerator,
        task: str,
    ) -> None:
        self.config = config
        self.pipeline_config = pipeline_config
        self.learner = learner
        self.frames = frames
        self.processors = processors
        self.evaluation = evaluation
        self.checkpoints = Checkpoints(folder / "checkpoints", "step")
        self.accelerator = accelerator
        self.is_main = accelerator.is_main_process
        self.task = task

        self._check_last_batch()
        batch_size, seed = pipeline_config.batch_size, pipeline_config.seed or 0
        processes = accelerator.num_processes, accelerator.process_index
        self.sampler = Sampler(frames.num_samples, batch_size, seed, *processes)
        self.samples_per_step = batch_size * accelerator.num_processes
        self.epoch = 0
        self.drawn = 0  # samples of this epoch that have been learnt from, by all processes
        self.evaluated: dict[str, Any] = {}  # the latest summary, in the main process
        self.evaluated_at = 0  # its step
        self._batches: list[torch.Tensor] = []  # that are left of this epoch, the next one last
        # Sums of the metrics since they were logged, and the updates in them.
        self._sums, self._summed = torch.zeros(len(learner.metrics), device=learner.device), 0
        self._metrics: dict[str, float] = {}  # the latest logged
        self._rate = (0.0, 0)  # time and step of the latest logging

    def _check_last_batch(self) -> None:
        """The last batch of an epoch must be large enough for the policy."""
        batch_size, count = self.pipeline_config.batch_size, self.frames.num_samples
        smallest = self.learner.kind.smallest_batch(self.learner.policy)
        left = (count - 1) % batch_size + 1
        fills_up = self.accelerator.num_processes > 1 and batch_size >= smallest  # an epoch's last batches
        if left < smallest and not fills_up:
            raise UserError(
                f"batch_size {batch_size} leaves {left} of {count:,} samples for the last batch, and this "
                f"policy cannot be trained on fewer than {smallest} (batch norms on small pictures): "
                "choose another batch_size"
            )

    @property
    def step(self) -> int:
        """Updates so far."""
        return self.learner.step

    def train(self, logger: Log | None, stop: Callable[[], bool]) -> bool:
        """Train up to `pipeline_config.steps`, or until `stop` says so; either way everything is saved.

        Args:
            logger: of the main process; None logs nothing.
            stop: asked before each update.

        Returns:
            whether the training is finished.

        Raises:
            UserError: a loss is not finite, or a checkpoint cannot be written.
        """
        if self.is_main:
            self.checkpoints.tidy()
            weights = sum(parameter.nbytes for parameter in self.learner.policy.parameters())
            copies = 2 if self.learner.config.ema else 1  # and Adam's two moments
            self.checkpoints.check_room((copies + 2) * weights)
        config, total = self.config, self.pipeline_config.steps
        self._rate = perf_counter(), self.step
        with progress_bar(total, self.step, shown=self.is_main) as bar:
            while not self._stops(stop):
                if self._evaluation_due():
                    self._evaluate(logger)
                    if self.is_main and self.evaluated:
                        bar.write(f"{self.step:>10,} steps: {self.evaluation.line(self.evaluated)}")
                if self.step >= total:
                    break
                before = self.step
                self._learn()
                bar.update()

                if crossed(config.log_every, before, self.step) or self.step >= total:
                    self._log(logger)
                    bar.set_postfix_str(self._status())
                if crossed(config.keep_every, before, self.step):
                    self.checkpoints.keep(self.step)
                    self.save()
        self.save()
        return self.step >= total and not self._evaluation_due()

    def _learn(self) -> None:
        """One update."""
        if not self._batches:
            self._batches = self.sampler.epoch(self.epoch, self.drawn)[::-1]
            if not self.drawn:
                # LeRobot's loader draws its workers' seed, which moves the CPU's dropout masks on.
                torch.empty((), dtype=torch.int64).random_()
        metrics = self.learner.update(self.frames.batch(self._batches.pop()))
        self._sums += metrics
        self._summed += 1
        self.drawn += self.samples_per_step
        if not self._batches:
            self.epoch, self.drawn = self.epoch + 1, 0

    def _stops(self, stop: Callable[[], bool]) -> bool:
        """Several processes stop at the same step, and exchange their wishes only where they log."""
        if self.accelerator.num_processes == 1:
            return stop()
        if self.step % self.config.log_every:
            return False
        wishes = torch.tensor(float(stop()), device=self.learner.device)
        return self._reduce(wishes, "sum").item() > 0

    def _reduce(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
        """Over the processes."""
        reduced = self.accelerator.reduce(tensor, how)
        assert isinstance(reduced, torch.Tensor)
        return reduced

    def _log(self, logger: Log | None) -> None:
        means = self._reduce(self._sums / max(self._summed, 1), "mean").tolist()
        self._metrics = dict(zip(self.learner.metrics, means, strict=True))
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

    def _evaluation_due(self) -> bool:
        return evaluation_due(
            self.config.eval_every, self.pipeline_config.steps, self.evaluated_at, self.step
        )

    def _evaluate(self, logger: Log | None) -> None:
        """Save, play the evaluation's episodes with the average of the weights, log, and add the numbers."""
        started = perf_counter()
        self.save()  # a kill costs no more than the evaluation, which a resumed run plays
        if self.is_main and logger:
            before, at_end = self.evaluated.get("step", 0), self.step >= self.pipeline_config.steps
            video_every = self.config.video_every
            self.evaluated = evaluate(
                self.evaluation,
                self.learner.averaged,
                self.step,
                logger,
                self.checkpoints,
                video=video_every > 0 and (at_end or crossed(video_every, before, self.step)),
            )
            ours = f"{TRAINING_STATE}/{act_checkpoint.OURS}.json"
            results = {act_checkpoint.EVALUATION: self.evaluated, ours: self._results()}
            self.checkpoints.add(self.step, results)
        self.evaluated_at = self.step
        self.accelerator.wait_for_everyone()
        self._rate = self._rate[0] + perf_counter() - started, self._rate[1]

    def _measure_norms(self) -> None:
        """On samples from all over the dataset, always the same ones."""
        last, count = self.frames.num_samples - 1, min(NORM_SAMPLES, self.frames.num_samples)
        spread = torch.linspace(0, last, count, dtype=torch.float64).long()
        batches = max(count // self.pipeline_config.batch_size, 1)
        self.learner.measure_norms(self.frames.batch(spread[first::batches]) for first in range(batches))

    def _check_finite(self) -> None:
        """Stop before losses that are not finite are called a checkpoint."""
        for name, value in self._metrics.items():
            if not math.isfinite(value):
                raise UserError(
                    f"{name} is not finite after {self.step:,} steps: try a smaller optimizer.lr or "
                    "optimizer.grad_clip; earlier checkpoints are intact"
                )

    def _status(self) -> str:
        """What matters first: a narrow terminal cuts the end off."""
        losses = {name.rpartition("/")[2]: self._metrics[name] for name in self.learner.kind.metrics}
        words = [f"{name} {value:.4f}" for name, value in losses.items()]
        if self.evaluated:
            words.insert(1, self.evaluation.line(self.evaluated))
        return ", ".join([*words, f"{self._metrics['Throughput/samples_per_s']:,.0f} samples/s"])

    def save(self) -> None:
        """Write a checkpoint, let `last` lead to it and `best` to the best one up to here.

        Raises:
            UserError: a weight is not finite, or it cannot be written; the earlier ones are intact.
        """
        if self.is_main:
            if not all(parameter.isfinite().all() for parameter in self.learner.policy.parameters()):
                raise UserError(
                    f"a weight is not finite after {self.step:,} steps: try a smaller optimizer.lr; "
                    "earlier checkpoints are intact"
                )
            self._measure_norms()
            self.checkpoints.save(self.step, self._write)
        self.accelerator.wait_for_everyone()

    def _results(self) -> dict[str, Any]:
        """What an evaluation changes in `trainer.json`."""
        return {"evaluation": self.evaluated, "best": self.checkpoints.best}

    def _write(self, folder: Path) -> None:
        state = {
            "epoch": self.epoch,
            "drawn": self.drawn,
            "summed": self._summed,
            "metrics": {name: self._metrics[name] for name in self.learner.metrics if name in self._metrics},
            **self._results(),
            "kept": self.checkpoints.kept,
            "dataset": self.frames.fingerprint,
            "trains_batch_norms": self.learner.trains_batch_norms,
        }
        processes = self.accelerator.num_processes
        act_checkpoint.write(
            folder,
            self.learner,
            self.processors,
            self.pipeline_config,
            processes,
            self.task,
            state,
            {"sums": self._sums},
        )
        save_json(folder / act_checkpoint.EVALUATION, self.evaluated)

    def load(self, folder: Path) -> None:
        """Resume from a checkpoint as if the training had not stopped; from LeRobot's as nearly as it allows.

        From another run's checkpoint the training may continue with other data.

        Raises:
            UserError: it is not whole, not of this configuration, or not of this dataset.
        """
        ours = folder.resolve().parent == self.checkpoints.folder.resolve()  # and not another run's
        state, tensors = act_checkpoint.read(folder, self.learner, self.frames.fingerprint if ours else "")
        self.evaluated_at = self.step
        if ours:
            self._restore_checkpoints(folder, state)
        if not state:
            batch_size = self.pipeline_config.batch_size
            position = act_checkpoint.read_position(folder, self.frames.num_samples, batch_size)
            self.epoch, self.drawn = position["epoch"], position["start_index"]
            return
        if state["dataset"] != self.frames.fingerprint:
            return  # other data begins with its first epoch
        try:
            check_evaluation(self.evaluation, state["evaluation"], {}, "step", self.step)
            if state["drawn"] >= self.frames.num_samples:
                raise ValueError(f"drawn must be below {self.frames.num_samples}, got {state['drawn']}")
            self.epoch, self.drawn, self._summed = state["epoch"], state["drawn"], state["summed"]
            self._metrics, self.evaluated = state["metrics"], state["evaluation"]
            if self._metrics and list(self._metrics) != list(self.learner.metrics):
                raise ValueError("its metrics are not those of this policy")
            self.evaluated_at = self.evaluated.get("step", 0) if ours else self.step
            sums = tensors["sums"]
            if sums.shape != self._sums.shape or not sums.isfinite().all():
                raise ValueError("the sums of its metrics are not those of this policy")
            self._sums.copy_(sums)
        except (KeyError, RuntimeError, ValueError) as error:
            raise UserError(f"{folder}: not the state of such a training: {reason(error)}") from None

    def _restore_checkpoints(self, folder: Path, state: dict[str, Any]) -> None:
        """Which checkpoint is the best and which stay, by `state` of the run's last one."""
        latest = state or act_checkpoint.read_latest_of_ours(self.checkpoints.folder)
        try:
            check_evaluation(self.evaluation, {}, latest["best"], "step", self.step)
            self.checkpoints.restore(latest["best"], latest["kept"])
        except ValueError as error:
            raise UserError(f"{folder}: not the state of such a training: {reason(error)}") from None
