"""Train an expert with soft actor-critic.

    python train_sac.py                                           PushT: configs/sac_pusht.yaml
    python train_sac.py --config configs/sac_pendulum.yaml        another task
    python train_sac.py --seed 2 --agent.lr 3e-4 --run-name try   any setting is a flag, see --help
    python train_sac.py --offline.dataset data/NAME --offline.steps 5000   demonstrations first

Runs are resumable: re-run the same command. Ctrl-C saves first.
"""

import common.start  # noqa: F401  before all other imports

# isort: split

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from common.bounds import Seed, Steps, Threads
from common.config import config_path, differences, load_yaml, parse, read_first, to_dict
from common.device import choose_device, flush_denormals, use_threads
from common.errors import UserError, report_user_errors
from common.logger import Logger
from common.paths import LOGS, REPOSITORY, expanded
from common.run import check_name, open_run
from common.seeding import split_seed
from envs.aliasing import NoiseAliasing
from envs.evaluation import Evaluation
from envs.history import History
from envs.interfaces import Task, TrainingEnv
from envs.steerability import TRIAL_STARTS, check_authority, check_headroom, in_words, spreads, trial
from envs.steering import Frozen, Steering, SteeringConfig, SteeringEnv, image_size
from envs.summary import has_success
from envs.tasks import DEFAULT, FORMER, task_class, with_task
from envs.training import TaskTrainingEnv
from policies import fingerprint, policy_files, steerable, task_of
from sac.actor import untrained
from sac.agent import SAC
from sac.config import AgentConfig
from sac.demonstrations import OfflineConfig, OfflineData
from sac.encoder import EncoderConfig
from sac.overview import start_up_table
from sac.policy import SACConfig, SACPolicy
from sac.trainer import Trainer, TrainingConfig

MAY_CHANGE_ON_RESUME = (
    "total_env_steps",
    "training.log_every",
    "training.video_every",
    "training.keep_every",
    "training.env_threads",
    "agent.compile",
    "steer_anyway",
)

AUTHORITY_STARTS = 32  # that show how far noise moves the chunks of a policy


@dataclass(frozen=True)
class Config:
    """Everything about a training run."""

    IF_ABSENT: ClassVar = {"task": FORMER}

    task: str = DEFAULT  # what to learn, see envs/tasks.py; it decides on the settings below `env`
    run_name: str = ""  # folder below logs/; empty: the config file's name and the seed
    seed: Seed = 1  # of everything random
    total_env_steps: Steps = 2_400_000  # of the whole training, summed over the parallel environments
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"  # of networks and replay; auto: cuda, else cpu
    threads: Threads = 1  # CPU threads of PyTorch, beside the environments' one; 0: its own choice
    logs: Path = LOGS  # where runs are kept
    resume: bool = True  # resume the run of this name; --no-resume: begin anew under a new name
    wandb_project: str = ""  # log to Weights & Biases too
    env: Any = None  # the task as the agent meets it
    agent: AgentConfig = field(default_factory=AgentConfig)  # the algorithm
    training: TrainingConfig = field(default_factory=TrainingConfig)  # the loop
    offline: OfflineConfig = field(default_factory=OfflineConfig)  # demonstrations
    steering: SteeringConfig = field(default_factory=SteeringConfig)  # the noise of a frozen policy
    steer_anyway: bool = False  # steer without the trial that shows what there is to gain

    def validate(self) -> None:
        check_name(self.run_name)
        if self.training.best_from > self.total_env_steps:
            raise ValueError(
                f"training.best_from must be at most total_env_steps, {self.total_env_steps}, "
                f"got {self.training.best_from}"
            )
        if self.steering.policy:
            self._validate_steering()
        elif own := differences(to_dict(SteeringConfig()), to_dict(self.steering)):
            raise ValueError(f"steering must be left out without steering.policy, got {'; '.join(own)}")
        elif self.agent.noise_aliasing:
            raise ValueError("agent.noise_aliasing must be false without steering.policy, whose noise it is")
        if self.total_env_steps <= self.training.start_steps:
            raise ValueError(
                f"total_env_steps must be more than training.start_steps, {self.training.start_steps}, "
                f"got {self.total_env_steps}"
            )
        if self.agent.encoder != EncoderConfig() and not self.env.codec(0).pixel_shape:
            given = differences(to_dict(EncoderConfig()), to_dict(self.agent.encoder))
            raise ValueError(
                f"agent.encoder must be left out, because task {self.task} has no pictures, "
                f"got {'; '.join(given)}"
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

    def _validate_steering(self) -> None:
        changed = differences(to_dict(type(self.env)()), to_dict(self.env))
        if unused := [line for line in changed if line.split(":")[0] in self.env.action_settings]:
            raise ValueError(
                "env must leave out what actions mean, because those of steering.policy are the task's own, "
                f"got {'; '.join(unused)}"
            )
        if self.agent.noise_aliasing and self.steering.symmetric:
            raise ValueError("steering.symmetric must be false with agent.noise_aliasing")
        if self.agent.noise_aliasing and getattr(self.env, "mirror", False):
            raise ValueError("env.mirror must be false with agent.noise_aliasing")
        if self.offline.dataset and not self.agent.noise_aliasing:
            raise ValueError(
                "offline.dataset must be empty where steering.policy is given: its noise is unknown, "
                "which agent.noise_aliasing does without"
            )
        if self.offline.imitation:
            raise ValueError(
                "offline.imitation must be 0 where steering.policy is given: the noise of demonstrations is "
                f"unknown, got {self.offline.imitation}"
            )


def find_config(argv: list[str] | None) -> Path:
    """The YAML that `--config` names, else that of the task.

    Raises:
        UserError: there is none, or it is an experiment on another task than `--task`.
    """
    task = read_first("task", argv, None, DEFAULT)
    task_class(task)
    of_task = REPOSITORY / "configs" / f"sac_{task}.yaml"
    path = config_path(argv, of_task) or of_task  # `--config None` reads neither
    own = load_yaml(path).get("task", DEFAULT)
    if read_first("task", argv, None, own) != own:
        raise UserError(
            f"{path} is an experiment on task {own}, not {task}: leave --task out or choose another --config"
        )
    return path


def read_config(argv: list[str] | None) -> Config:
    """The command line and its YAML; their `task` decides which settings `env` has."""
    path = find_config(argv)
    return parse(with_task(Config, read_first("task", argv, path, DEFAULT)), argv, path, description=__doc__)


def build_trainer(config: Config, folder: Path) -> Trainer:
    """Environment, agent and loop as the configuration describes them."""
    device = choose_device(config.device)
    seeds = split_seed(config.seed, "environment", "exploration", "replay", "torch")
    codec = config.env.codec(0)
    steering, frozen, aliasing = open_frozen(config, device) if config.steering.policy else (None, None, None)
    pictures = image_size(codec, steering)
    env, demonstrations = build_env(config, seeds["environment"], pictures, steering, aliasing, device)
    updates = config.offline.steps + config.training.updates_due(config.total_env_steps)
    agent = SAC(
        codec.observation_size,
        env.action_size,
        config.agent,
        max(updates, 1),
        seeds["torch"],
        device,
        env.pixel_shape,
        aliasing,
    )
    evaluation = Evaluation(
        config.env,
        lambda actor: SACPolicy(actor, config.env, steering=steering),
        config.training.eval_episodes,
        config.training.eval_seed,
        image_size=pictures,
    )
    return Trainer(
        config=config.training,
        total_env_steps=config.total_env_steps,
        env=env,
        agent=agent,
        evaluation=evaluation,
        policy_config=policy_config(config, codec.observation_size, env, frozen),
        folder=folder,
        seeds=seeds,
        demonstrations=demonstrations,
        frozen=frozen,
    )


def build_env(
    config: Config,
    seed: int,
    pictures: int,
    steering: Steering | None,
    aliasing: NoiseAliasing | None,
    device: torch.device,
) -> tuple[TrainingEnv, OfflineData | None]:
    """What is trained in, and the demonstrations, where there are any.

    Args:
        config: of task, steering and demonstrations.
        seed: of episodes and starts.
        pictures: side in pixels of those in the observations; 0: there are none.
        steering, aliasing: of `open_frozen`.
        device: of the batches of demonstrations.

    Raises:
        UserError: the task's environment can be neither steered nor learnt from demonstrations; or see
            `SteeringEnv` and `OfflineData`.
    """
    task: Task = config.env
    env = task.training_env(seed, config.agent.gamma, pictures)
    if not config.offline.dataset and not steering:
        return env, None
    if not isinstance(env, TaskTrainingEnv):
        raise UserError(f"{task.name}: offline and steering need a training_env that is a TaskTrainingEnv")
    steered = SteeringEnv(env, steering, aliasing) if steering else None
    demonstrations = None
    if config.offline.dataset:
        from act.reader import DatasetReader  # LeRobot takes seconds to import

        recorded = DatasetReader(expanded(config.offline.dataset), task, env.env)
        demonstrations = OfflineData(config.offline, recorded, task, env, config.agent, device, steered)
    return steered or env, demonstrations


def policy_config(
    config: Config, observation_size: int, env: TrainingEnv, frozen: Frozen | None
) -> dict[str, Any]:
    """What a checkpoint's `config.json` says of the policy."""
    settings = SACConfig(
        task=config.task,
        observation_size=observation_size,
        action_size=env.action_size,
        hidden_sizes=config.agent.hidden_sizes,
        encoder=config.agent.encoder,
        steering=replace(config.steering, policy=frozen.fingerprint if frozen else ""),
    )
    has = {"encoder": bool(env.pixel_shape), "steering": frozen is not None}
    values = {name: value for name, value in to_dict(settings).items() if has.get(name, True)}
    return values | {"env": to_dict(config.env)}


def open_frozen(config: Config, device: torch.device) -> tuple[Steering, Frozen, NoiseAliasing | None]:
    """The policy that is to be steered, and what critics of its actions need, where there are such.

    Raises:
        UserError: it is of another task, sees what this one does not show, has no noise, or its noise does
            next to nothing; or it cannot be asked again from what the replay holds.
    """
    path = config.steering.policy
    task_of(path, config.task)
    policy = steerable(path, device, config.env)
    env = config.env.vector_env(AUTHORITY_STARTS, policy.image_size)
    starts, _ = env.reset(seed=range(AUTHORITY_STARTS))
    if policy.history > 1:
        starts = History(policy.history).add(starts, begins=np.ones(AUTHORITY_STARTS, bool))
    check_authority(spreads(policy, starts, np.random.default_rng(0)), path)
    frozen = Frozen(path, policy_files(path), fingerprint(path))
    steering, aliasing = Steering(policy, config.steering, config.env), None
    if config.agent.noise_aliasing:
        aliasing = NoiseAliasing(steering, starts, config.env.codec(0).observation_size, device)
    return steering, frozen, aliasing


def try_frozen(config: Config, trainer: Trainer, stop: Callable[[], bool]) -> str:
    """What the frozen policy solves, steered by an untrained learner, in words.

    "" where nothing is steered, with `steer_anyway`, and where the task has no success.

    Raises:
        UserError: steering it has nothing to gain, or `stop` says so.
    """
    if not isinstance(trainer.env, SteeringEnv) or config.steer_anyway or not has_success(config.env):
        return ""
    steering = trainer.env.steering
    actor = untrained(trainer.agent.policy, std=1 / steering.config.bound)  # N(0, 1), squashed into the bound
    policy = SACPolicy(actor, config.env, escapes=False, steering=steering)
    env = config.env.vector_env(TRIAL_STARTS, policy.image_size)
    numbers = trial(policy, env, config.training.eval_seed, stop)
    check_headroom(numbers, config.steering.policy)
    return in_words(numbers)


@report_user_errors()
def main(argv: list[str] | None = None) -> bool:
    """Train; returns whether the training is finished."""
    config = read_config(argv)
    use_threads(config.threads)
    flush_denormals()

    name = f"{find_config(argv).stem}_seed{config.seed}"
    with open_run("train_sac.py", config, argv, name, MAY_CHANGE_ON_RESUME) as run:
        trainer = build_trainer(config, run.folder)
        trial_result = "" if run.last else try_frozen(config, trainer, run.stop)
        if run.last:
            trainer.load(run.last)
            last_decision = trainer.env.decision_steps * trainer.env.num_envs  # may end later
            if trainer.env_steps >= config.total_env_steps + last_decision:
                raise UserError(
                    f"{run.folder} has been trained for {trainer.env_steps:,} env steps already: "
                    f"total_env_steps must be more, got {config.total_env_steps}"
                )
        run.begin(
            start_up_table(trainer, config.env, trial_result),
            f"{run.last} at {trainer.env_steps:,} env steps" if run.last else "",
        )
        with Logger(run.folder, trainer.env_steps, config.wandb_project, to_dict(config)) as logger:
            finished = trainer.train(logger, run.stop)
    run.end(
        finished,
        f"{trainer.env_steps:,} env steps",
        f"--total-env-steps {2 * config.total_env_steps}",
        "learning rate and target entropy",
    )
    return finished


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
