"""The configuration of an imitation training, and the same in LeRobot's terms."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from lerobot.configs.default import DatasetConfig as LeRobotDatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata

from act.dataset import DatasetConfig, features_of
from act.kinds import find_kind
from act.optimizer import OptimizerConfig
from act.trainer import TrainingConfig
from common.bounds import Between, Count, Threads
from common.errors import UserError
from common.hub import check_hub_name
from common.paths import LOGS
from common.run import check_name
from envs.tasks import DEFAULT, FORMER


@dataclass(frozen=True)
class Config:
    """Everything about a training run."""

    IF_ABSENT: ClassVar = {"task": FORMER}
    RENAMED: ClassVar = {
        "training.log_freq": "training.log_every",
        "training.eval_freq": "training.eval_every",
        "training.save_freq": "training.keep_every",
        "training.video_freq": "training.video_every",
    }

    task: str = DEFAULT  # what the demonstrations are of, and what is played; see envs/tasks.py
    run_name: str = ""  # folder below logs/; empty: the config file's name and the seed
    seed: Annotated[int, Between(0, 2**32 - 1)] = 1  # of everything random
    steps: Annotated[int, Between(1, 10**10)] = 100_000  # updates of the whole training
    batch_size: Count = 64  # samples per update and process
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # auto: cuda, else cpu
    threads: Threads = 0  # CPU threads of PyTorch; 0: its own choice
    logs: Path = LOGS  # where runs are kept
    resume: bool = True  # resume the run of this name; --no-resume: begin anew under a new name
    start_from: Path | None = None  # a run or checkpoint to start a new run from; also lerobot-train's
    wandb_project: str = ""  # log to Weights & Biases too
    push_to_hub: str = ""  # upload the best policy to this name (user/policy) when it is finished
    dataset: DatasetConfig = field(default_factory=DatasetConfig)  # what to learn from
    policy: Any = None  # the network; `act.kinds.with_kind` gives it the settings of its kind
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)  # the updates
    training: TrainingConfig = field(default_factory=TrainingConfig)  # the loop

    def validate(self) -> None:
        check_name(self.run_name)
        check_hub_name(self.push_to_hub, "policy")


def make_pipeline_config(
    config: Config, meta: LeRobotDatasetMetadata, device: torch.device, folder: Path
) -> TrainPipelineConfig:
    """The training in LeRobot's terms: what `lerobot-train` would get. Every checkpoint holds it.

    Args:
        config: resolved.
        meta: of the dataset.
        device: of the network.
        folder: of the run.

    Raises:
        UserError: the dataset lacks what the policy looks at, or a setting is not the policy's.
    """
    optimizer, kind = config.optimizer, find_kind(config.policy.type)
    policy = kind.make_config(config.policy, features_of(meta), optimizer, device.type)
    if optimizer.lr_backbone != OptimizerConfig.lr_backbone and not hasattr(policy, "optimizer_lr_backbone"):
        raise UserError(
            f"optimizer.lr_backbone must be left out: policy.type {config.policy.type} has one learning rate"
        )
    return TrainPipelineConfig(
        dataset=LeRobotDatasetConfig(
            repo_id=meta.repo_id,
            root=str(meta.root.absolute()),
            episodes=list(range(config.dataset.episodes)) or None,
            use_imagenet_stats=config.dataset.imagenet_stats,
            video_backend="pyav",
        ),
        policy=policy,
        output_dir=folder.absolute(),
        job_name=folder.name,
        seed=config.seed,
        batch_size=config.batch_size,
        steps=config.steps,
        env_eval_freq=0,
        log_freq=config.training.log_every,
        save_freq=config.training.keep_every,
        optimizer=optimizer.lerobot_optimizer(),
        scheduler=optimizer.lerobot_scheduler(config.steps),
    )
