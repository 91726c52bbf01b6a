"""What the training loops of SAC and of imitation share: settings, progress bar, evaluation."""

from dataclasses import dataclass
from itertools import chain
from typing import Annotated, Any, Protocol

import numpy as np
from tqdm import tqdm

from common.bounds import Between, Count, Seed, Steps
from common.checkpoint import Checkpoints
from common.errors import reason, show


@dataclass(frozen=True)
class LoopConfig:
    """The training loop. All counts are in the steps of its progress bar."""

    log_every: Annotated[int, Between(1, 10**12)] = 100  # steps between logged losses
    eval_every: Steps = 5_000  # steps between evaluations, each after a checkpoint; 0: only at the end
    keep_every: Steps = 0  # steps between checkpoints that stay; 0: only `last` and `best`
    video_every: Steps = 20_000  # steps between rollouts shown in TensorBoard, with an evaluation; 0: none
    eval_episodes: Count = 100  # per evaluation, the same seeds each time
    eval_seed: Seed = 10_000  # first of them; no figure we quote uses these


LARGEST = 1e15  # number of an evaluation that is believed


class Evaluation(Protocol):
    """`envs.evaluation.Evaluation`, as a loop sees it. `trained` is what is being trained."""

    fps: int  # of frames

    def summary(self, trained: Any) -> dict[str, Any]: ...
    def frames(self, trained: Any) -> np.ndarray: ...
    def scalars(self, numbers: dict[str, Any]) -> dict[str, float]: ...
    def line(self, numbers: dict[str, Any]) -> str: ...
    def rank(self, numbers: dict[str, Any]) -> tuple[float, ...]: ...


class Log(Protocol):
    """`common.logger.Logger`, as a loop sees it."""

    def log(self, step: int, scalars: dict[str, float]) -> None: ...
    def video(self, step: int, frames: np.ndarray, fps: int) -> None: ...
    def image(self, step: int, name: str, picture: np.ndarray) -> None: ...


def evaluate(
    evaluation: Evaluation,
    trained: Any,
    step: int,
    logger: Log,
    checkpoints: Checkpoints,
    video: bool,
    may_be_best: bool = True,
) -> dict[str, Any]:
    """Play the evaluation's episodes, log them, and note in `checkpoints` if this is the best so far.

    Args:
        step: in `checkpoints.unit`.
        video: show an episode in TensorBoard.
        may_be_best: False: do not compare it with the best.

    Returns:
        the summary, with the step.
    """
    numbers = evaluation.summary(trained) | {checkpoints.unit: step}
    logger.log(step, evaluation.scalars(numbers))
    if video:
        logger.video(step, evaluation.frames(trained), evaluation.fps)
    best = checkpoints.best
    if may_be_best and (not best or evaluation.rank(numbers) >= evaluation.rank(best)):
        checkpoints.best = numbers
    return numbers


def check_evaluation(evaluation: Evaluation, latest: dict, best: dict, unit: str, steps: int) -> None:
    """Raise ValueError where a saved state's evaluations are not such as `evaluate` makes.

    Args:
        latest, best: their summaries; empty where there was none.
        unit: what they call the step.
        steps: of the training so far.
    """
    for numbers in filter(None, (latest, best)):
        step = numbers.get(unit)
        if type(step) is not int or not 0 <= step <= steps:
            raise ValueError(f"{unit} of an evaluation must be from 0 to {steps}, got {show(step)}")
    try:
        for numbers in filter(None, (latest, best)):
            for look in (evaluation.rank, evaluation.scalars, evaluation.line):
                look(numbers)  # which has all that it needs
            several = [value if name.endswith("_ci95") else [value] for name, value in numbers.items()]
            known = [value for value in chain(*several) if value is not None]
            if not all(type(value) in (int, float) and abs(value) < LARGEST for value in known):
                raise ValueError("not all of it are numbers of bearable size")
            if not 0 <= numbers.get("success_rate", 0) <= 1:
                raise ValueError("success_rate must be between 0 and 1")
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"evaluation or best is not one of this task: {reason(error)}") from None


def crossed(every: int, before: int, now: int) -> bool:
    """Whether a multiple of `every` lies in (before, now]; never for 0."""
    return every > 0 and now // every > before // every


def evaluation_due(every: int, total: int, evaluated: int, now: int) -> bool:
    """Whether a multiple of `every`, or the end, was reached after the step of the latest evaluation."""
    return evaluated < now and (now >= total or crossed(every, evaluated, now))


def progress_bar(total: int, step: int, shown: bool = True) -> tqdm:
    """On a terminal only; elsewhere the lines of the evaluations are enough."""
    return tqdm(
        total=total,
        initial=step,
        unit="step",
        unit_scale=True,
        smoothing=0.05,
        dynamic_ncols=True,
        disable=None if shown else True,
    )
