"""Train LeRobot's ACT on demonstrations of PushT, and watch its success in the environment meanwhile.

    python train_act.py --dataset.root data/expert            the recipe: configs/act_pusht.yaml
    python train_act.py --config configs/act_pusht_image.yaml from pictures, for a GPU
    python train_act.py --start-from outputs/train/x/checkpoints/last   go on where lerobot-train stopped
    accelerate launch train_act.py ...                        on several GPUs

Started again under the same name, a run goes on from its last checkpoint. Ctrl-C saves first.
"""

import sys
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from lerobot.configs.default import DatasetConfig as LeRobotDatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.policies import make_pre_post_processors

from act.checkpoint import continue_terms, find_training, publish, read_ours
from act.dataset import DatasetConfig, features_of, open_dataset
from act.frames import Frames
from act.learner import Learner, OptimizerConfig
from act.player import ACTPlayer
from act.policy import PolicyConfig, act_config, build_policy
from act.trainer import Trainer, TrainingConfig
from common.config import config_path, parse, to_dict
from common.device import choose_device
from common.errors import UserError, report_user_errors
from common.hub import check_hub_name
from common.logger import Logger
from common.run import (
    StopRequest,
    check_name,
    choose_folder,
    command_line,
    last_checkpoint,
    only_process_in,
    same_command,
    write_down,
)
from envs.evaluation import Evaluation

DEFAULT_CONFIG = Path("configs/act_pusht.yaml")
MAY_CHANGE_ON_RESUME = (
    "steps",
    "device",
    "threads",
    "logs",
    "run_name",
    "resume",
    "wandb_project",
    "push_to_hub",
    "dataset.root",
    "dataset.memory_gb",
    "optimizer.compile",
    "optimizer.pieces",
    "training.log_freq",
    "training.save_freq",
    "training.video_freq",
)


@dataclass(frozen=True)
class Config:
    """Everything about a training run."""

    run_name: str = ""  # folder below logs/; empty: the config file's name and the seed
    seed: int = 1  # of everything random
    steps: int = 100_000  # updates of the whole training
    batch_size: int = 64  # samples per update and process
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda, else cpu
    threads: int = 0  # CPU threads of PyTorch; 0: its own choice
    logs: Path = Path("logs")  # where runs are kept
    resume: bool = True  # go on where a run of this name stopped; --no-resume: begin anew under a new name
    start_from: Path | None = None  # a run or checkpoint to go on from in a new run; also lerobot-train's
    wandb_project: str = ""  # log to Weights & Biases too
    push_to_hub: str = ""  # upload the best policy to this name (user/policy) when it is finished
    dataset: DatasetConfig = field(default_factory=DatasetConfig)  # what to learn from
    policy: PolicyConfig = field(default_factory=PolicyConfig)  # the network
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # the updates
    training: TrainingConfig = field(default_factory=TrainingConfig)  # the loop

    def validate(self) -> None:
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        check_name(self.run_name)
        check_hub_name(self.push_to_hub, "policy")


def in_lerobots_terms(
    config: Config, meta: LeRobotDatasetMetadata, device: torch.device, folder: Path
) -> TrainPipelineConfig:
    """The training as `lerobot-train` would be asked for it; it stands in every checkpoint."""
    optimizer = config.optimizer
    return TrainPipelineConfig(
        dataset=LeRobotDatasetConfig(
            repo_id=meta.repo_id,
            root=str(meta.root.absolute()),
            episodes=list(range(config.dataset.episodes)) or None,
            use_imagenet_stats=config.dataset.imagenet_stats,
            video_backend="pyav",
        ),
        policy=act_config(
            config.policy,
            features_of(meta),
            device=device.type,
            optimizer_lr=optimizer.lr,
            optimizer_lr_backbone=optimizer.lr_backbone,
            optimizer_weight_decay=optimizer.weight_decay,
        ),
        output_dir=folder.absolute(),
        job_name=folder.name,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps,
        env_eval_freq=0,
        log_freq=config.training.log_freq,
        save_freq=config.training.save_freq,
        optimizer=optimizer.lerobot_optimizer(),
        scheduler=optimizer.lerobot_scheduler(config.steps),
    )


def build_trainer(
    config: Config, folder: Path, source: Path | None, accelerator: Accelerator
) -> tuple[Trainer, str]:
    """Data, policy and loop as the configuration describes them; and the start-up table.

    Args:
        source: the checkpoint that the training is to go on from, if any.
    """
    device = accelerator.device if accelerator.num_processes > 1 else choose_device(config.device)
    meta = open_dataset(config.dataset)
    terms = in_lerobots_terms(config, meta, device, folder)
    if config.start_from:
        terms = continue_terms(source, terms)
    trains_norms = read_ours(source)[0].get("trains_batch_norms", False) if source else None
    policy, backbone = build_policy(terms.policy, terms.seed, config.policy.backbone_weights, trains_norms)
    processors = make_pre_post_processors(terms.policy, dataset_stats=meta.stats)
    inputs, chunk_size = terms.policy.input_features, terms.policy.chunk_size
    player = ACTPlayer(policy, *processors)
    frames = Frames(meta, inputs, chunk_size, processors[0], device, config.dataset, folder)
    if accelerator.is_main_process:
        warn_of_long_chunks(chunk_size, frames)
    evaluation = Evaluation(
        lambda policy: ACTPlayer(policy, *processors),
        config.training.eval_episodes,
        config.training.eval_seed,
        player.pixels,
    )
    trainer = Trainer(
        config.training,
        terms,
        Learner(policy.to(device), terms, config.optimizer, accelerator),
        frames,
        processors,
        evaluation.summary,
        evaluation.frames,
        folder,
        accelerator,
    )
    return trainer, start_up_table(config, trainer, meta, backbone)


def go_on(trainer: Trainer, source: Path, least_steps: int) -> None:
    """Load a checkpoint, after which there must be so many steps left.

    Raises:
        UserError: there are fewer, or the checkpoint does not suit.
    """
    trainer.load(source)
    if trainer.lerobot.steps - trainer.step < least_steps:
        raise UserError(
            f"{source} has been trained for {trainer.step:,} steps already: "
            f"steps must be more, got {trainer.lerobot.steps}"
        )


def warn_of_long_chunks(chunk_size: int, frames: Frames) -> None:
    """Say so where no episode is as long as a chunk."""
    longest, mean = frames.lengths.max(), frames.lengths.mean()
    if chunk_size > longest:
        print(
            f"warning: policy.chunk_size {chunk_size} is longer than every episode "
            f"(the longest has {longest} frames, the mean {mean:.1f}), "
            "so the end of each chunk is padding that nothing is learnt from",
            file=sys.stderr,
        )


def start_up_table(config: Config, trainer: Trainer, meta: LeRobotDatasetMetadata, backbone: str) -> str:
    """What is about to be trained; `backbone` is what the ResNet begins with, in words."""
    frames, terms, policy = trainer.frames, trainer.lerobot, trainer.lerobot.policy
    size = sum(p.numel() for p in trainer.learner.policy.parameters())
    lengths, precision = frames.lengths, config.optimizer.precision
    inputs = ", ".join(f"{name} {tuple(f.shape)}" for name, f in policy.input_features.items())
    processes = trainer.accelerator.num_processes
    rows = {
        "run": f"{terms.output_dir.name} in {config.logs}, seed {terms.seed}",
        "dataset": f"{meta.root}: {len(lengths):,} episodes, {frames.num_recorded:,} frames, {meta.fps} fps"
        f"{', and their mirror images' * frames.mirror}",
        "episodes": f"{lengths.min()} to {lengths.max()} frames, {lengths.mean():.1f} on average",
        "input": f"{inputs}; decoded, {frames.place()}",
        "output": f"action (2,), chunks of {policy.chunk_size}, {policy.n_action_steps} of them played",
        "policy": f"ACT, {size:,} parameters; ResNet: {backbone}",
        "device": f"{trainer.learner.device}, {processes} process{'es' * (processes > 1)}, "
        f"{torch.get_num_threads()} CPU threads, {precision}",
        "length": f"{terms.steps:,} steps of {terms.batch_size} samples, "
        f"{terms.steps * trainer.samples_per_step / frames.num_frames:,.1f} epochs",
        "watch": f"tensorboard --logdir {config.logs}",
    }
    return "\n".join(f"  {name:<10} {value}" for name, value in rows.items())


@report_user_errors()
def main(argv: list[str] | None = None) -> bool:
    """Train; returns whether the training is finished."""
    config = parse(Config, argv, DEFAULT_CONFIG, description=__doc__)
    if config.threads:
        torch.set_num_threads(config.threads)
    torch.set_flush_denormal(True)  # Adam's moments decay into denormals, which CPUs handle slowly
    torch.backends.cudnn.benchmark = True  # shapes do not change
    accelerator = Accelerator(cpu=config.device == "cpu", mixed_precision="no")

    name = config.run_name or f"{config_path(argv, DEFAULT_CONFIG).stem}_seed{config.seed}"
    (folder,) = broadcast_object_list([choose_folder(config.logs, name, config.resume)])
    is_main = accelerator.is_main_process
    with only_process_in(folder) if is_main else nullcontext(), StopRequest() as stop:
        last = last_checkpoint(folder, config, MAY_CHANGE_ON_RESUME) if is_main else None
        (last,) = broadcast_object_list([last])
        source = last or (config.start_from and find_training(config.start_from))
        trainer, table = build_trainer(config, folder, source, accelerator)
        if source:
            go_on(trainer, source, least_steps=0 if last else 1)
        if is_main:
            write_down(folder, config, command_line("train_act.py", argv))
            print(table)
            if source:
                print(f"going on from {source} at {trainer.step:,} steps")
            if config.start_from:
                print("policy, optimizer, batch_size and seed are that training's, not the configuration's")
        with (
            Logger(folder, trainer.step, config.wandb_project, to_dict(config)) if is_main else nullcontext()
        ) as logger:
            finished = trainer.train(logger, stop)
    if is_main:
        report(config, folder, trainer, finished)
    return finished


def report(config: Config, folder: Path, trainer: Trainer, finished: bool) -> None:
    """Say how it ended and how to go on, and publish what is to be published."""
    again = same_command(folder, config.resume)
    if not finished:
        print(f"stopped at {trainer.step:,} steps, saved. To go on: {again}")
        return
    print(f"finished. Play it: python evaluate.py --policy {folder} --record")
    cosine = config.optimizer.schedule == "cosine"
    note = " (the learning rate then stands where it does half-way through such a training)" * cosine
    print(f"Train on: {again} and --steps {2 * config.steps}{note}")
    if config.push_to_hub:
        print("published", publish(config.push_to_hub, folder / "checkpoints" / "best"))


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
