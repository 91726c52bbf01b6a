"""Train ACT, a diffusion policy, flow matching or SmolVLA on demonstrations, and evaluate it meanwhile.

    python train_act.py                                           PushT, keypoints: configs/act_pusht.yaml
    python train_act.py --config configs/act_pusht_image.yaml     from pictures, for a GPU
    python train_act.py --config configs/flow_pusht_human.yaml    another kind of policy
    python train_act.py --dataset.root data/mine --run-name mine  any setting is a flag, see --help
    python train_act.py --start-from outputs/train/x/checkpoints/last    resume a run of lerobot-train
    accelerate launch train_act.py ...                            on several GPUs

Runs are resumable: re-run the same command. Ctrl-C saves first.
"""

import common.start  # noqa: F401  before all other imports

# isort: split

import math
import sys
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies import make_pre_post_processors

from act.checkpoint import find_training, publish, read_ours, saved_pipeline_config
from act.config import Config, make_pipeline_config
from act.dataset import open_dataset
from act.foreign import opening
from act.frames import Frames
from act.kinds import DEFAULT, find_kind, with_kind
from act.learner import Learner
from act.opening import make_player
from act.overview import start_up_table, warn_of_long_chunks
from act.trainer import Trainer
from common.checkpoint import follow
from common.config import config_path, parse, read_first, settings_in, to_dict
from common.device import choose_device, use_threads
from common.errors import UserError, report_user_errors
from common.logger import Logger
from common.memory import check_fits
from common.paths import REPOSITORY
from common.run import open_run
from envs.evaluation import Evaluation
from envs.tasks import task_class

DEFAULT_CONFIG = REPOSITORY / "configs" / "act_pusht.yaml"
MAY_CHANGE_ON_RESUME = (
    "steps",
    "push_to_hub",
    "dataset.root",
    "dataset.recorded_by",
    "dataset.memory_gb",
    "optimizer.compile",
    "optimizer.micro_batches",
    "training.log_every",
    "training.keep_every",
    "training.video_every",
)


def read_config(argv: list[str] | None) -> Config:
    """The command line and its YAML; their `policy.type` decides which settings `policy` has.

    Raises:
        UserError: a setting is wrong, or the YAML's are of another kind of policy than the command line's.
    """
    kind = read_first("policy.type", argv, DEFAULT_CONFIG, DEFAULT)
    config_class, path = with_kind(Config, kind), config_path(argv, DEFAULT_CONFIG)
    if path:
        _check_kind(path, kind)
    config = parse(config_class, argv, DEFAULT_CONFIG, description=__doc__)
    task_class(config.task)  # an unknown one is refused before there is a folder
    return config


def _check_kind(path: Path, kind: str) -> None:
    """Raise UserError where a YAML is of another kind of policy than the one that is wanted."""
    given = settings_in(path)
    own = given.get("policy.type", DEFAULT)
    known = {f"policy.{field.name}" for field in fields(find_kind(kind).settings)}
    foreign = [key for key in given if key.startswith("policy.") and key not in known]
    if own != kind and ("policy.type" in given or foreign):
        raise UserError(
            f"{path} has settings of policy.type {own}, not {kind}: leave --policy.type out or choose "
            "another --config"
        )


def build_trainer(
    config: Config, folder: Path, source: Path | None, accelerator: Accelerator
) -> tuple[Trainer, dict[str, str]]:
    """Data, policy and loop as the configuration describes them; and the start-up table.

    Args:
        config: resolved.
        folder: of the run.
        source: the checkpoint that the training is to continue, if any.
        accelerator: of the processes that train together.
    """
    device = accelerator.device if accelerator.num_processes > 1 else choose_device(config.device)
    task = task_class(config.task)()
    meta = open_dataset(config.dataset, task)
    pipeline_config = make_pipeline_config(config, meta, device, folder)
    if config.start_from and source:
        pipeline_config = saved_pipeline_config(source, pipeline_config)
    policy_config = pipeline_config.policy
    assert policy_config is not None
    saved = read_ours(source)[0] if source else None
    check_memory(policy_config, pipeline_config.batch_size, config.optimizer.micro_batches, device)
    with opening(f"{source}: no policy to start from") if source else nullcontext():
        policy, origin = find_kind(policy_config.type).make_policy(
            policy_config, config.policy, pipeline_config.seed or 0, saved
        )
    stats: Any = meta.stats  # NumPy's arrays, which LeRobot makes tensors of
    processors = make_pre_post_processors(policy_config, dataset_stats=stats)
    player = make_player(policy, processors, task)
    frames = Frames(meta, policy_config, processors[0], device, config.dataset, folder, task)
    if accelerator.is_main_process:
        warn_of_long_chunks(frames)
    if not source:
        find_kind(policy_config.type).measure_data(policy.to(device), frames.samples())
    evaluation = Evaluation(
        task,
        lambda policy: make_player(policy, processors, task),
        config.training.eval_episodes,
        config.training.eval_seed,
        player.image_size,
    )
    trainer = Trainer(
        config=config.training,
        pipeline_config=pipeline_config,
        learner=Learner(policy.to(device), pipeline_config, config.optimizer, accelerator),
        frames=frames,
        processors=processors,
        evaluation=evaluation,
        folder=folder,
        accelerator=accelerator,
        task=config.task,
    )
    return trainer, start_up_table(trainer, meta, origin)


def check_memory(policy: PreTrainedConfig, batch_size: int, micro_batches: int, device: torch.device) -> None:
    """Refuse what certainly does not fit: weights, gradient and AdamW's moments, and a micro-batch."""
    weights, trained, kept = find_kind(policy.type).least_size(policy)
    kept += sum(math.prod(feature.shape) for feature in (policy.input_features or {}).values())
    numbers = weights + 3 * trained + -(-batch_size // micro_batches) * kept
    check_fits(f"this policy with batch_size {batch_size}", numbers, device)


def resume(trainer: Trainer, source: Path, least_steps: int) -> None:
    """Load a checkpoint, after which there must be so many steps left.

    Raises:
        UserError: there are fewer, or the checkpoint does not suit.
    """
    trainer.load(source)
    if trainer.pipeline_config.steps - trainer.step < least_steps:
        raise UserError(
            f"{source} has been trained for {trainer.step:,} steps already: "
            f"steps must be more, got {trainer.pipeline_config.steps}"
        )


def broadcast(value: Any) -> Any:
    """The main process's value, in every process."""
    return broadcast_object_list([value])[0]


@report_user_errors()
def main(argv: list[str] | None = None) -> bool:
    """Train; returns whether the training is finished."""
    config = read_config(argv)
    use_threads(config.threads)
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision="no")
    is_main = accelerator.is_main_process

    name = f"{(config_path(argv, DEFAULT_CONFIG) or DEFAULT_CONFIG).stem}_seed{config.seed}"
    with open_run("train_act.py", config, argv, name, MAY_CHANGE_ON_RESUME, is_main, broadcast) as run:
        source = run.last or (config.start_from and find_training(config.start_from))
        trainer, table = build_trainer(config, run.folder, source, accelerator)
        if source:
            resume(trainer, source, least_steps=0 if run.last else 1)
        run.begin(table, f"{source} at {trainer.step:,} steps" if source else "")
        if config.start_from and is_main:
            print(
                "network, learning rates, their schedule, weight decay, gradient clipping, batch_size and "
                "seed come from that checkpoint, not the configuration"
            )
        logger = Logger(run.folder, trainer.step, config.wandb_project, to_dict(config)) if is_main else None
        with logger or nullcontext():
            finished = trainer.train(logger, run.stop)
    cosine = hasattr(trainer.pipeline_config.scheduler, "num_decay_steps")
    run.end(
        finished,
        f"{trainer.step:,} steps",
        f"--steps {2 * config.steps}",
        "learning rates" if cosine else "",
    )
    if finished and is_main and config.push_to_hub:
        print("published", publish(config.push_to_hub, follow(run.folder / "checkpoints" / "best")))
    return finished


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
