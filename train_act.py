"""Train LeRobot's ACT on demonstrations of PushT, and watch its success in the environment meanwhile.

    python train_act.py --dataset.root data/expert            the recipe: configs/act_pusht.yaml
    python train_act.py --config configs/act_pusht_image.yaml from pictures, for a GPU
    python train_act.py --start-from outputs/train/x/checkpoints/last   go on where lerobot-train stopped
    accelerate launch train_act.py ...                        on several GPUs

Started again under the same name, a run goes on from its last checkpoint. Ctrl-C saves first.
"""

import sys
from contextlib import nullcontext
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from lerobot.policies import make_pre_post_processors

from act.checkpoint import continue_terms, find_training, publish, read_ours
from act.config import Config, in_lerobots_terms
from act.dataset import open_dataset
from act.frames import Frames
from act.learner import Learner
from act.overview import start_up_table, warn_of_long_chunks
from act.player import ACTPlayer
from act.policy import build_policy
from act.trainer import Trainer
from common.config import config_path, parse, to_dict
from common.device import choose_device, use_threads
from common.errors import UserError, report_user_errors
from common.logger import Logger
from common.run import (
    StopRequest,
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
    "optimizer.micro_batches",
    "training.log_freq",
    "training.save_freq",
    "training.video_freq",
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
    return trainer, start_up_table(trainer, meta, backbone)


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


@report_user_errors()
def main(argv: list[str] | None = None) -> bool:
    """Train; returns whether the training is finished."""
    config = parse(Config, argv, DEFAULT_CONFIG, description=__doc__)
    use_threads(config.threads)
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
    cosine = hasattr(trainer.lerobot.scheduler, "num_decay_steps")
    note = " (the learning rate then stands where it does half-way through such a training)" * cosine
    print(f"Train on: {again} and --steps {2 * config.steps}{note}")
    if config.push_to_hub:
        print("published", publish(config.push_to_hub, folder / "checkpoints" / "best"))


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
