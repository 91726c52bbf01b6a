"""A training on disk: LeRobot's checkpoint, and beside it what makes our resume exact.

    pretrained_model/   LeRobot's: config.json, model.safetensors (the average), processors, train_config.json
                        ours: task.json
    training_state/     LeRobot's: optimiser, scheduler, random generators, step
                        ours: trainer.json, trainer.safetensors

`lerobot-eval` and `lerobot-train --resume` open it. One of LeRobot's is opened here, without what is ours.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from lerobot.common import train_utils
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.sampler import compute_sampler_state
from lerobot.optim.optimizers import AdamWConfig, load_optimizer_state_dict
from lerobot.optim.schedulers import CosineDecayWithWarmupSchedulerConfig
from lerobot.utils.constants import PRETRAINED_MODEL_DIR
from lerobot.utils.random_utils import load_rng_state
from safetensors import SafetensorError

from act.kinds import find_kind, names
from act.learner import Learner
from common.checkpoint import TRAINING_STATE, follow, newest, save_json, save_tensors
from common.config import check_numbers
from common.errors import UserError, reason
from common.hub import uploading
from common.untrusted import load_json, load_tensors

OURS = "trainer"
TASK_FILE = "task.json"  # `policies.task_of` reads it


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


def read(folder: Path, learner: Learner) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Resume from a checkpoint, ours or LeRobot's.

    Returns:
        `state` and `tensors` as given to `write`; empty from one of LeRobot's.

    Raises:
        UserError: it is not whole, or of another policy.
    """
    training = folder / TRAINING_STATE
    if not (training / "training_step.json").exists():
        raise UserError(
            f"{folder}: no checkpoint to resume from, {training.name}/training_step.json is missing"
        )
    state, tensors = read_ours(folder)
    model = load_tensors(folder / PRETRAINED_MODEL_DIR / "model.safetensors")
    check_format(folder / PRETRAINED_MODEL_DIR, model)
    try:
        _load_weights(learner.averaged, model)
        _load_weights(learner.policy, _part(tensors, "weights") or model)
        learner.load_moments(load_optimizer_state_dict(training), _part(tensors, "norms"))
        step = train_utils.load_training_step(training)
        if step < 0:
            raise ValueError(f"it says that it has been trained for {step} steps")
        learner.continue_at(step)
        load_rng_state(training)
    except (OSError, KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise UserError(f"{folder}: not the checkpoint of such a training: {reason(error)}") from None
    return state, tensors


def read_ours(folder: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What only we write; empty in a checkpoint of LeRobot's.

    Raises:
        UserError: it is damaged.
    """
    file = folder / TRAINING_STATE / f"{OURS}.json"
    if not file.exists():
        return {}, {}
    state = load_json(file)
    if not isinstance(state, dict):
        raise UserError(f"{file}: not the state of a training")
    return state, load_tensors(file.with_suffix(".safetensors"))


def read_latest_of_ours(checkpoints: Path) -> dict[str, Any]:
    """`state` of the latest checkpoint that we wrote into a run, before LeRobot resumed it."""
    latest = max(checkpoints.glob(f"*/{TRAINING_STATE}/{OURS}.json"), default=None)
    return load_json(latest) if latest else {}


def read_position(folder: Path, num_frames: int, batch_size: int) -> dict[str, int]:
    """Where in its data a training of LeRobot's stood: `epoch`, and `start_index`, the samples of it drawn.

    Args:
        num_frames: of the dataset.
        batch_size: per process, where the checkpoint does not hold it.
    """
    step = train_utils.load_training_step(folder / TRAINING_STATE)
    batch_size = train_utils.load_training_batch_size(folder) or batch_size
    processes = train_utils.load_training_num_processes(folder) or 1
    return compute_sampler_state(step, num_frames, batch_size, processes)


def find_training(path: Path) -> Path:
    """The checkpoint that a training starts from: the path itself, the policy in it, or a run's last one.

    Raises:
        UserError: there is none.
    """
    path = follow(path)
    if not path.is_dir():
        raise UserError(f"{path}: no such folder; --start-from takes a checkpoint or the folder of a run")
    last = follow(path / "checkpoints" / "last")
    if not last.is_dir():  # a copy without links
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
    try:
        saved = TrainPipelineConfig.from_pretrained(model)
    except Exception as error:  # draccus raises its own, of no common class
        check_format(model, load_tensors(model / "model.safetensors"))
        raise UserError(f"{model}: no training to start from: {reason(error)}") from None
    policy, schedule = saved.policy, saved.scheduler
    if policy is None or policy.type not in names():
        kind = policy.type if policy else "none"
        raise UserError(f"{model}: this is a policy of type {kind}; here are {', '.join(names())}")
    check_numbers(find_kind(policy.type).settings, vars(policy), f"{model}: ")
    if not saved.use_policy_training_preset or not isinstance(saved.optimizer, AdamWConfig):
        raise UserError(f"{model}: was trained with another optimiser than AdamW, LeRobot's preset for ACT")
    if isinstance(schedule, CosineDecayWithWarmupSchedulerConfig) and schedule.num_decay_steps == saved.steps:
        schedule.num_decay_steps = pipeline_config.steps  # it is to end with the training
    saved.dataset, saved.steps = pipeline_config.dataset, pipeline_config.steps
    saved.output_dir = pipeline_config.output_dir
    saved.seed = saved.seed or 0  # LeRobot may draw without one
    policy.device = pipeline_config.policy.device if pipeline_config.policy else None
    policy.push_to_hub = saved.resume = False
    return saved


def publish(repository: str, folder: Path) -> str:
    """Upload a checkpoint's policy to the Hub, where `lerobot-eval` finds it; returns its address.

    Raises:
        UserError: no network, no token, or the Hub refuses.
    """
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
            f"python -m lerobot.processor.migrate_policy_normalization --pretrained-path {folder}"
        )


def _load_weights(policy: torch.nn.Module, weights: dict[str, torch.Tensor]) -> None:
    """Batch norms count their updates, which an exported one does not and nobody reads."""
    missing, unexpected = policy.load_state_dict(weights, strict=False)
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unexpected:
        raise ValueError(
            f"its weights are not the policy's, {(missing + unexpected)[0]} is one too few or many"
        )


def _part(tensors: dict[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
