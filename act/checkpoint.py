"""A training on disk: LeRobot's checkpoint, and beside it what makes our resume exact.

    pretrained_model/   LeRobot's: config.json, model.safetensors (the average), processors, train_config.json
                        ours: task.json
    training_state/     LeRobot's: optimiser, scheduler, random generators, step
                        ours: trainer.json, trainer.safetensors

`lerobot-eval` and `lerobot-train --resume` open it. One of LeRobot's is opened here, without what is ours.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from huggingface_hub import HfApi
from lerobot.common import train_utils
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.sampler import compute_sampler_state
from lerobot.optim.optimizers import AdamWConfig
from lerobot.optim.schedulers import CosineDecayWithWarmupSchedulerConfig
from lerobot.utils.constants import OPTIMIZER_STATE, PRETRAINED_MODEL_DIR, RNG_STATE, TRAINING_STEP
from lerobot.utils.random_utils import deserialize_rng_state
from lerobot.utils.utils import unflatten_dict

from act.foreign import check_complete, decode_pipeline_config, opening
from act.kinds import find_kind, names, names_in_words
from act.learner import Learner
from common.bounds import Between, Steps
from common.checkpoint import (
    NAME,
    TRAINING_STATE,
    follow,
    is_filled,
    newest,
    part,
    read_state,
    save_json,
    save_tensors,
)
from common.config import check_numbers, to_dict, with_absent
from common.errors import UserError, reason, show
from common.flags import typed
from common.hub import check_nothing_linked, uploading
from common.untrusted import load_json, load_tensors

OURS = "trainer"
TASK_FILE = "task.json"  # `policies.task_of` reads it
EVALUATION = "evaluation.json"
CountIfKnown = Annotated[int | None, Between(1, 10**7)]


@dataclass(frozen=True)
class State:
    """`trainer.json`."""

    epoch: Steps = 0
    drawn: Steps = 0  # samples of this epoch that have been learnt from
    summed: Steps = 0  # updates in the sums of the metrics
    metrics: dict = field(default_factory=dict)  # the latest logged
    evaluation: dict = field(default_factory=dict)  # the latest summary
    best: dict = field(default_factory=dict)  # that of the best checkpoint
    kept: tuple[str, ...] = ()  # names of checkpoints that stay
    dataset: str = ""  # its fingerprint
    trains_batch_norms: bool = False

    def validate(self) -> None:
        if strange := [name for name, value in self.metrics.items() if not isinstance(value, float)]:
            raise ValueError(f"metrics must hold numbers, {show(strange[0])} is none")


@dataclass(frozen=True)
class Progress:
    """`training_step.json`, LeRobot's; former ones have the step alone."""

    step: Steps = 0
    num_processes: CountIfKnown = None
    batch_size: CountIfKnown = None  # per process


def write(
    folder: Path,
    learner: Learner,
    processors: tuple[Any, Any],
    pipeline_config: TrainPipelineConfig,
    num_processes: int,
    task: str,
    state: dict[str, Any],
    tensors: dict[str, torch.Tensor],
) -> None:
    """Put a checkpoint into a folder.

    Args:
        folder: exists.
        learner: what to save.
        processors: LeRobot's, before and after the policy.
        pipeline_config: the training in LeRobot's terms.
        num_processes: that share it.
        task: its name.
        state: whatever else, as JSON has it; `read` returns it.
        tensors: the same in tensors.
    """
    moments, norms = learner.moments()
    train_utils.save_checkpoint(
        folder,
        learner.step,
        pipeline_config,
        learner.kind.export(learner.averaged),
        learner.optimizer,
        learner.scheduler,
        *processors,
        num_processes=num_processes,
        batch_size=pipeline_config.batch_size,
        optim_state_dict=moments,
    )
    save_json(folder / PRETRAINED_MODEL_DIR / TASK_FILE, {"task": task})
    if learner.config.ema:
        tensors = tensors | {f"weights.{k}": v for k, v in learner.policy.state_dict().items()}
    tensors = tensors | {f"norms.{name}": value for name, value in norms.items()}
    save_tensors(folder / TRAINING_STATE / f"{OURS}.safetensors", tensors)
    save_json(folder / TRAINING_STATE / f"{OURS}.json", state)


def read(folder: Path, learner: Learner, dataset: str = "") -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Resume from a checkpoint, ours or LeRobot's.

    Args:
        folder: of the checkpoint.
        learner: gets its weights and moments.
        dataset: fingerprint of the only one that it may have been trained on; empty: of any.

    Returns:
        `state` and `tensors` as given to `write`; empty from one of LeRobot's.

    Raises:
        UserError: it is not whole, of another policy, or of another dataset.
    """
    training = folder / TRAINING_STATE
    if not (training / TRAINING_STEP).exists():
        raise UserError(f"{folder}: no checkpoint to resume from, {training.name}/{TRAINING_STEP} is missing")
    state, tensors = read_ours(folder)
    if state and dataset and state["dataset"] != dataset:  # before its weights, which may not fit either
        raise UserError(
            f"{folder}: trained on another dataset than the one that is there now: bring that back, "
            "or begin anew with another --run-name or --no-resume"
        )
    progress = read_progress(folder)
    model = load_tensors(folder / PRETRAINED_MODEL_DIR / "model.safetensors")
    check_format(folder / PRETRAINED_MODEL_DIR, model)
    moments, generators = load_tensors(training / OPTIMIZER_STATE), load_tensors(training / RNG_STATE)
    try:
        _load_weights(learner.averaged, model)
        _load_weights(learner.policy, part(tensors, "weights") or model)
        learner.load_moments(unflatten_dict(moments), part(tensors, "norms"))
        learner.continue_at(progress.step)
        if not 0 <= generators["np_rng_state_index"].item() <= 624:  # NumPy would read beyond its numbers
            raise ValueError("the state of NumPy's generator is damaged")
        deserialize_rng_state(generators)
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError(f"{folder}: not the checkpoint of such a training: {reason(error)}") from None
    return state, tensors


def read_ours(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What only we write; empty in a checkpoint of LeRobot's.

    Raises:
        UserError: it is damaged.
    """
    file = folder / TRAINING_STATE / f"{OURS}.json"
    of_ours = file.with_suffix(".safetensors"), folder / EVALUATION, folder / PRETRAINED_MODEL_DIR / TASK_FILE
    if not file.exists() and not any(path.exists() for path in of_ours):
        return {}, {}
    return _read_state(file), load_tensors(file.with_suffix(".safetensors"))


def _read_state(file: Path) -> dict[str, Any]:
    state = read_state(State, load_json(file), file, optional=("dataset", "trains_batch_norms"))
    return to_dict(state)


def read_progress(folder: Path) -> Progress:
    """How far the training of a checkpoint, ours or LeRobot's, had come.

    Raises:
        UserError: it is damaged.
    """
    file = folder / TRAINING_STATE / TRAINING_STEP
    content = load_json(file)  # in which a later LeRobot may say more
    content = {name: content[name] for name in ("step", "num_processes", "batch_size") if name in content}
    return read_state(Progress, content, file, optional=("num_processes", "batch_size"))


def read_latest_of_ours(checkpoints: Path) -> dict[str, Any]:
    """`state` of the latest checkpoint that we wrote into a run, before LeRobot resumed it.

    Where that is gone nothing says which checkpoints were to stay: all are.
    """
    latest = max(checkpoints.glob(f"*/{TRAINING_STATE}/{OURS}.json"), default=None)
    if latest:
        return _read_state(latest)
    return {
        "best": {},
        "kept": sorted(path.name for path in checkpoints.iterdir() if NAME.fullmatch(path.name)),
    }


def read_position(folder: Path, num_samples: int, batch_size: int) -> dict[str, int]:
    """Where in its data a training of LeRobot's stood: `epoch`, and `start_index`, the samples of it drawn.

    Args:
        num_samples: of the dataset.
        batch_size: per process, where the checkpoint does not hold it.
    """
    progress = read_progress(folder)
    batch_size, processes = progress.batch_size or batch_size, progress.num_processes or 1
    return compute_sampler_state(progress.step, num_samples, batch_size, processes)


def find_training(path: Path) -> Path:
    """The checkpoint that a training starts from: the path itself, the policy in it, or a run's last one.

    Raises:
        UserError: there is none.
    """
    path = follow(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; --start-from takes a checkpoint or the folder of a run")
    last = follow(path / "checkpoints" / "last")
    if not is_filled(last):  # a copy without links
        last = newest(last.parent, "train_config.json", TRAINING_STATE) or path
    found = path.parent if path.name == PRETRAINED_MODEL_DIR else last
    if not (found / PRETRAINED_MODEL_DIR / "train_config.json").is_file():
        raise UserError(f"{path}: holds no training, ours or lerobot-train's, to start from")
    return found


def saved_pipeline_config(folder: Path, pipeline_config: TrainPipelineConfig) -> TrainPipelineConfig:
    """The training that a checkpoint, ours or LeRobot's, belongs to.

    Args:
        folder: of the checkpoint.
        pipeline_config: its data, length and folder replace the saved ones.

    Raises:
        UserError: there is none that can be continued here.
    """
    model = folder / PRETRAINED_MODEL_DIR
    content = load_json(model / "train_config.json")
    described = content.get("policy")
    kind = described.get("type") if isinstance(described, dict) else "none"
    if not isinstance(described, dict) or kind not in names():
        known = names_in_words()
        raise UserError(f"{model}: a LeRobot policy of type {show(kind)}; those of type {known} train here")
    needed = find_kind(kind).needed
    described = content["policy"] = with_absent(described, find_kind(kind).settings())
    check_complete(find_kind(kind).settings, described, f"{model / 'train_config.json'}: ", needed)
    # As written, true is no number; once decoded, a number given as text has its bounds too.
    check_numbers(find_kind(kind).settings, described, f"{model / 'train_config.json'}: ")
    try:
        saved = decode_pipeline_config(content)
    except Exception as error:  # draccus raises its own, of no common class
        check_format(model, load_tensors(model / "model.safetensors"))
        raise UserError(f"{model}: no training to start from: {reason(error)}") from None
    policy, schedule = saved.policy, saved.scheduler
    assert policy is not None
    check_numbers(find_kind(policy.type).settings, vars(policy), f"{model}: ")
    if not saved.use_policy_training_preset or not isinstance(saved.optimizer, AdamWConfig):
        raise UserError(f"{model}: was trained with another optimiser than AdamW, the one here")
    _check_continuable(saved, model)
    if isinstance(schedule, CosineDecayWithWarmupSchedulerConfig) and schedule.num_decay_steps == saved.steps:
        schedule.num_decay_steps = pipeline_config.steps  # it is to end with the training
    saved.dataset, saved.steps = pipeline_config.dataset, pipeline_config.steps
    saved.output_dir = pipeline_config.output_dir
    saved.seed = saved.seed or 0  # LeRobot may draw without one
    policy.device = pipeline_config.policy.device if pipeline_config.policy else None
    policy.push_to_hub = saved.resume = False
    return saved


def _check_continuable(saved: TrainPipelineConfig, model: Path) -> None:
    """Raise UserError where a training's optimiser, schedule, batch size or seed are impossible."""
    with opening(f"{model}: its training cannot be continued"):
        assert saved.optimizer
        optimizer = saved.optimizer.build([torch.nn.Parameter(torch.zeros(1))])
        if saved.scheduler:
            saved.scheduler.build(optimizer, saved.steps)  # pyright: ignore[reportArgumentType]
        if saved.batch_size < 1 or not 0 <= (saved.seed or 0) < 2**32:
            raise ValueError(f"batch_size {saved.batch_size} or seed {saved.seed} is out of range")


def publish(repository: str, folder: Path) -> str:
    """Upload a checkpoint's policy to the Hub, where `lerobot-eval` finds it; returns its address.

    Raises:
        UserError: no network, no token, or the Hub refuses.
    """
    check_nothing_linked(folder / PRETRAINED_MODEL_DIR)
    with uploading(repository, f"the policy is whole at {folder}", "again with the same command"):
        api = HfApi()
        api.create_repo(repository, repo_type="model", exist_ok=True)
        api.upload_folder(repo_id=repository, folder_path=folder / PRETRAINED_MODEL_DIR)
    return f"https://huggingface.co/{repository}"


def check_format(folder: Path, weights: Iterable[str]) -> None:
    """Refuse weights among which is the normalisation.

    Args:
        folder: of the policy.
        weights: their names.

    Raises:
        UserError: says how LeRobot converts them.
    """
    if any(name.startswith(("normalize_inputs.", "unnormalize_outputs.")) for name in weights):
        raise UserError(
            "this policy is of LeRobot 0.1 to 0.3; if it sees pictures, this converts it: "
            f"python -m lerobot.processor.migrate_policy_normalization {typed('--pretrained-path', folder)}"
        )


def _load_weights(policy: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Batch norms count their updates, which an exported one does not and nobody reads."""
    missing, unexpected = policy.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"its weights are not the policy's, {(missing + unexpected)[0]} is one too few or many"
        )
