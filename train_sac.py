"""Train an expert that pushes the T, with soft actor-critic.

    python train_sac.py                                           the recipe: configs/sac_pusht.yaml
    python train_sac.py --config configs/sac_pusht_classic.yaml   the field's reference recipe, for comparison
    python train_sac.py --seed 2 --agent.lr 3e-4 --run-name try   any setting is a flag, see --help

Started again under the same name, a run goes on from its last checkpoint. Ctrl-C saves first.
"""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from common.config import config_path, parse, to_dict
from common.device import choose_device, use_threads
from common.errors import UserError, report_user_errors
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
from common.seeding import split_seed
from envs.evaluation import Evaluation
from envs.training import EnvConfig, TrainingEnv
from policies import SACConfig, SACPolicy
from sac.agent import SAC, AgentConfig
from sac.trainer import Trainer, TrainingConfig

DEFAULT_CONFIG = Path("configs/sac_pusht.yaml")
MAY_CHANGE_ON_RESUME = (
    "total_env_steps",
    "training.log_every",
    "training.video_every",
    "training.keep_every",
    "logs",
    "run_name",
    "resume",
    "device",
    "threads",
    "wandb_project",
    "agent.compile",
)


@dataclass(frozen=True)
class Config:
    """Everything about a training run."""

    run_name: str = ""  # folder below logs/; empty: the config file's name and the seed
    seed: int = 1  # of everything random
    total_env_steps: int = 3_000_000  # of the whole training, summed over the parallel environments
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # of networks and replay; auto: cuda, else cpu
    threads: int = 0  # CPU threads of PyTorch; 0: its own choice
    logs: Path = Path("logs")  # where runs are kept
    resume: bool = True  # go on where a run of this name stopped; --no-resume: begin anew under a new name
    wandb_project: str = ""  # log to Weights & Biases too
    env: EnvConfig = field(default_factory=EnvConfig)  # the task as the agent meets it
    agent: AgentConfig = field(default_factory=AgentConfig)  # the algorithm
    training: TrainingConfig = field(default_factory=TrainingConfig)  # the loop

    def validate(self) -> None:
        for name in ("seed", "threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        check_name(self.run_name)
        if self.training.best_from > self.total_env_steps:
            raise ValueError(
                f"training.best_from must be at most total_env_steps, {self.total_env_steps}, "
                f"got {self.training.best_from}"
            )
        if self.total_env_steps <= self.training.start_steps:
            raise ValueError(
                f"total_env_steps must be more than training.start_steps, {self.training.start_steps}, "
                f"got {self.total_env_steps}"
            )
        if self.agent.batch_size > self.training.buffer_capacity:
            raise ValueError(
                "agent.batch_size must be at most training.buffer_capacity, "
                f"{self.training.buffer_capacity}, got {self.agent.batch_size}"
            )
        at_once = self.env.num_envs * self.agent.n_step  # transitions, when all episodes end together
        if at_once > self.training.buffer_capacity:
            raise ValueError(
                f"training.buffer_capacity must be at least env.num_envs x agent.n_step, {at_once}, "
                f"got {self.training.buffer_capacity}"
            )


def build_trainer(config: Config, folder: Path) -> Trainer:
    """Environment, agent and loop as the configuration describes them."""
    device = choose_device(config.device)
    seeds = split_seed(config.seed, "environment", "exploration", "replay", "torch")
    env = TrainingEnv(config.env, seeds["environment"])
    total_updates = max(1, int((config.total_env_steps - config.training.start_steps) * config.training.utd))
    agent = SAC(env.observation_size, env.action_size, config.agent, total_updates, seeds["torch"], device)
    decoder = config.env.decoder()
    evaluation = Evaluation(
        lambda actor: SACPolicy(actor, config.env.features, decoder, config.env.action_repeat),
        config.training.eval_episodes,
        config.training.eval_seed,
    )
    policy_config = SACConfig(
        observation_size=env.observation_size,
        action_size=env.action_size,
        hidden_sizes=config.agent.hidden_sizes,
        features=config.env.features,
        action_mode=config.env.action_mode,
        action_bound=config.env.action_bound,
        action_frame=config.env.action_frame,
        speed_limit=decoder.speed_limit,
        action_repeat=config.env.action_repeat,
    )
    return Trainer(
        config=config.training,
        total_env_steps=config.total_env_steps,
        env=env,
        agent=agent,
        evaluate=evaluation.summary,
        record=evaluation.frames,
        policy_config=to_dict(policy_config),
        folder=folder,
        seeds=seeds,
    )


def start_up_table(config: Config, trainer: Trainer, folder: Path) -> str:
    env, agent = config.env, config.agent
    actor_size = sum(p.numel() for p in trainer.agent.actor.parameters())
    critics_size = sum(p.numel() for p in trainer.agent.critics.parameters())
    rows = {
        "run": f"{folder}, seed {config.seed}",
        "environments": f"{env.num_envs} x PushT, {env.action_mode} actions, {env.reward} reward",
        "features": f"{trainer.env.observation_size}: {', '.join(env.features)}",
        "networks": f"actor {actor_size:,} parameters, {agent.num_critics} critics {critics_size:,}",
        "device": f"{trainer.agent.device}, {torch.get_num_threads()} CPU threads",
        "length": f"{config.total_env_steps:,} env steps, {trainer.agent.total_updates:,} updates",
        "watch": f"tensorboard --logdir {config.logs}",
    }
    return "\n".join(f"  {name:<13} {value}" for name, value in rows.items())


@report_user_errors()
def main(argv: list[str] | None = None) -> bool:
    """Train; returns whether the training is finished."""
    config = parse(Config, argv, DEFAULT_CONFIG, description=__doc__)
    use_threads(config.threads)
    torch.set_flush_denormal(True)  # Adam's moments decay into denormals, which CPUs handle slowly

    name = config.run_name or f"{config_path(argv, DEFAULT_CONFIG).stem}_seed{config.seed}"
    folder = choose_folder(config.logs, name, config.resume)
    with only_process_in(folder), StopRequest() as stop:
        trainer = build_trainer(config, folder)
        last = last_checkpoint(folder, config, MAY_CHANGE_ON_RESUME)
        if last:
            trainer.load(last)
            if trainer.env_steps > config.total_env_steps:
                raise UserError(
                    f"{folder} has been trained for {trainer.env_steps:,} env steps already: "
                    f"total_env_steps must be more, got {config.total_env_steps}"
                )
        write_down(folder, config, command_line("train_sac.py", argv))
        print(start_up_table(config, trainer, folder))
        if last:
            print(f"going on from {last} at {trainer.env_steps:,} env steps")
        with Logger(folder, trainer.env_steps, config.wandb_project, to_dict(config)) as logger:
            finished = trainer.train(logger, stop)

    again = same_command(folder, config.resume)
    if finished:
        print(f"finished. Play it: python evaluate.py --policy {folder} --record")
        print(
            f"Train on: {again} and --total-env-steps {2 * config.total_env_steps} (learning rate and target "
            "entropy then stand where they do half-way through such a training)"
        )
    else:
        print(f"stopped at {trainer.env_steps:,} env steps, saved. To go on: {again}")
    return finished


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
