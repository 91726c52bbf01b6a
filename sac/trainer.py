"""The training loop: act, step, store, update, log, evaluate, save; and how a run goes on after a stop.

The trainer knows its environment only as arrays of observations, actions and rewards
(`envs.training.TrainingEnv` is one) and its evaluation as a function that returns numbers.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from common import checkpoint
from common.checkpoint import Checkpoints
from common.errors import UserError
from common.logger import Logger
from common.seeding import restore_generator
from envs.summary import scalars
from sac.actor import Actor
from sac.agent import SAC
from sac.exploration import Detours
from sac.replay_buffer import NStepWindow, ReplayBuffer


@dataclass(frozen=True)
class TrainingConfig:
    """The training loop. All counts are environment steps, summed over the parallel environments."""

    start_steps: int = 5_000  # played with uniformly random actions before anything is learnt
    utd: float = 1 / 32  # updates per environment step
    greedy_share: float = 0.25  # of the environments play the mode: the replay learns where it gets stuck
    detour_share: float = 0.0  # of them are led astray now and then, see sac/exploration.py
    buffer_capacity: int = 1_000_000  # transitions
    log_every: int = 16_000  # env steps between logged losses
    eval_every: int = 160_000  # env steps between evaluations, each followed by a checkpoint
    keep_every: int = 0  # the first checkpoint after each so many env steps stays; 0: only `last` and `best`
    video_every: int = 800_000  # env steps between rollouts shown in TensorBoard; 0: none
    eval_episodes: int = 200  # per evaluation, the same seeds each time
    eval_seed: int = 10_000  # first of them; no figure we quote uses these
    best_from: int = 0  # env steps before which no checkpoint is the best

    def validate(self) -> None:
        for name in ("utd", "buffer_capacity", "log_every", "eval_every", "eval_episodes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("start_steps", "keep_every", "video_every", "eval_seed", "best_from"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("greedy_share", "detour_share"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be between 0 and 1, got {getattr(self, name)}")


class Trainer:
    """Trains `agent` in `env`.

    Args:
        config: of the loop.
        total_env_steps: length of the whole training.
        env: vectorised, see `envs.training.TrainingEnv`.
        agent: learns.
        evaluate: actor -> numbers as of `envs.summary.summarize`, which choose the best checkpoint.
        record: actor -> frames (T, H, W, 3) uint8 of one episode.
        policy_config: what a checkpoint's `config.json` says of the policy beside its weights.
        folder: of the run.
        seeds: `exploration` and `replay`.
    """

    def __init__(
        self,
        config: TrainingConfig,
        total_env_steps: int,
        env: Any,
        agent: SAC,
        evaluate: Callable[[Actor], dict[str, Any]],
        record: Callable[[Actor], np.ndarray],
        policy_config: dict[str, Any],
        folder: Path,
        seeds: dict[str, int],
    ) -> None:
        self.config = config
        self.total_env_steps = total_env_steps
        self.env = env
        self.agent = agent
        self.evaluate = evaluate
        self.record = record
        self.policy_config = policy_config
        self.checkpoints = Checkpoints(folder / "checkpoints", "env_steps")

        sizes = (env.observation_size, env.action_size)
        self.buffer = ReplayBuffer(config.buffer_capacity, *sizes, agent.device, env.symmetry)
        self.window = NStepWindow(env.num_envs, *sizes, agent.config.n_step, agent.config.gamma)
        self.exploration = np.random.default_rng(seeds["exploration"])
        detours = int(config.detour_share * env.num_envs)
        self.detours = Detours(env.num_envs, env.action_size, detours, self.exploration)
        self.sampling = torch.Generator(agent.device).manual_seed(seeds["replay"])

        self.env_steps = 0
        self.evaluation: dict[str, Any] = {}  # the latest
        self.returns: deque[float] = deque(maxlen=100)  # of the latest episodes, stock reward
        self.successes: deque[float] = deque(maxlen=100)
        self.observations = env.reset()
        self._metrics: dict[str, torch.Tensor] = {}  # of the latest update

    def train(self, logger: Logger, stop: Callable[[], bool]) -> bool:
        """Train up to `total_env_steps`, or until `stop` says so; either way everything is saved.

        Returns:
            whether the training is finished.

        Raises:
            UserError: a loss is not finite, or a checkpoint cannot be written.
        """
        self.checkpoints.tidy()
        total, started, resumed_at = self.total_env_steps, perf_counter(), self.env_steps
        updates_before = self.agent.updates
        with self._progress_bar() as bar:
            while self.env_steps < total and not stop():
                before = self.env_steps
                self._play()
                self._learn()
                bar.update(self.env_steps - before)

                if self._crossed(self.config.log_every, before):
                    seconds = perf_counter() - started
                    self._log(
                        logger, seconds, self.env_steps - resumed_at, self.agent.updates - updates_before
                    )
                    bar.set_postfix_str(self._status())
                if self._crossed(self.config.eval_every, before) or self.env_steps >= total:
                    self._evaluate(logger)
                    bar.write(self._evaluation_line())
        self.save()
        return self.env_steps >= total

    def _play(self) -> None:
        """One step of every environment, into the replay buffer."""
        if self.env_steps < self.config.start_steps:
            actions = self.exploration.uniform(-1, 1, (self.env.num_envs, self.env.action_size))
            actions = actions.astype(np.float32)
        else:
            observations = torch.from_numpy(self.observations).to(self.agent.device)
            num_greedy = int(self.config.greedy_share * self.env.num_envs)
            actions = self.detours(self.agent.act(observations, num_greedy).cpu().numpy())
        next_observations, rewards, terminated, truncated, infos = self.env.step(actions)
        completed = self.window.add(
            self.observations, actions, rewards, next_observations, terminated, truncated
        )
        self.buffer.add(completed)
        self.env_steps = infos["env_steps"]
        ended = terminated | truncated
        self.returns.extend(infos["return"][ended & infos["usual_start"]].tolist())
        self.successes.extend(terminated[ended & infos["usual_start"]].tolist())
        self.observations = self.env.reset(ended) if ended.any() else next_observations

    def _learn(self) -> None:
        """As many updates as `utd` asks for the steps played since learning began."""
        due = int((self.env_steps - self.config.start_steps) * self.config.utd)
        while self.agent.updates < due and self.buffer.size:
            self._metrics = self.agent.update(self.buffer.sample(self.agent.config.batch_size, self.sampling))

    def _log(self, logger: Logger, seconds: float, env_steps: int, updates: int) -> None:
        self._check_finite()
        row = {name: float(value) for name, value in self._metrics.items()}
        if self.returns:
            row |= {"Reward/episode": self.returns[-1], "Reward/mean_100": float(np.mean(self.returns))}
            row["Episode/success_100"] = float(np.mean(self.successes))
        row |= {
            "Throughput/env_steps_per_s": env_steps / seconds,
            "Throughput/updates_per_s": updates / seconds,
        }
        logger.log(self.env_steps, row)

    def _evaluate(self, logger: Logger) -> None:
        """Play the evaluation's episodes with the averaged actor, log, and save."""
        self._check_finite()
        actor = self.agent.averaged_actor
        before = self.evaluation.get("env_steps", 0)  # for videos and kept checkpoints come with evaluations
        self.evaluation = self.evaluate(actor) | {"env_steps": self.env_steps}
        logger.log(self.env_steps, scalars(self.evaluation))
        at_end = self.config.video_every > 0 and self.env_steps >= self.total_env_steps
        if at_end or self._crossed(self.config.video_every, before):
            logger.video(self.env_steps, self.record(actor))
        best, late_enough = self.checkpoints.best, self.env_steps >= self.config.best_from
        if late_enough and (not best or _merit(self.evaluation) >= _merit(best)):
            self.checkpoints.best = self.evaluation
        if self._crossed(self.config.keep_every, before):
            self.checkpoints.keep(self.env_steps)
        self.save()

    def _check_finite(self) -> None:
        """Stop before losses or weights that are not finite are called a checkpoint."""
        for name, values in (self._metrics | self.agent.state_dict()).items():
            if not values.isfinite().all():
                failed = self.checkpoints.folder.parent / f"failed_{self.env_steps:08d}"
                checkpoint.write_folder(failed, self._write)
                raise UserError(
                    f"{name} is not finite after {self.env_steps:,} env steps: try a smaller lr or a "
                    f"grad_clip; the state is saved in {failed}, earlier checkpoints are intact"
                )

    def _crossed(self, every: int, before: int) -> bool:
        return every > 0 and self.env_steps // every > before // every

    def _progress_bar(self) -> tqdm:
        """On a terminal; elsewhere the lines of the evaluations have to do."""
        return tqdm(
            total=self.total_env_steps,
            initial=self.env_steps,
            unit="step",
            unit_scale=True,
            smoothing=0.05,
            dynamic_ncols=True,
            disable=None,
        )

    def _status(self) -> str:
        success = f"{100 * self.evaluation['success_rate']:.1f}%" if self.evaluation else "-"
        recent = f"{100 * np.mean(self.successes):.0f}%" if self.successes else "-"
        return f"success {success}, exploring {recent}, updates {self.agent.updates}"

    def _evaluation_line(self) -> str:
        steps = self.evaluation["mean_steps_to_success"]
        return (
            f"{self.env_steps:>10,} env steps: success {100 * self.evaluation['success_rate']:5.1f} %, "
            f"steps to success {'-' if steps is None else f'{steps:.1f}'}, "
            f"max coverage {self.evaluation['mean_max_coverage']:.3f}, "
            f"target moves {self.evaluation['action_step_mean'] or 0:.1f} px"
        )

    def save(self) -> None:
        """Write a checkpoint, let `last` lead to it and `best` to the best one up to here.

        Raises:
            UserError: a loss or a weight is not finite, or it cannot be written; the earlier ones are intact.
        """
        self._check_finite()
        self.checkpoints.save(self.env_steps, self._write)

    def _write(self, folder: Path) -> None:
        trained = {"env_steps": self.env_steps, "updates": self.agent.updates, "evaluation": self.evaluation}
        checkpoint.save_json(folder / "config.json", self.policy_config | {"trained": trained})
        checkpoint.save_tensors(folder / "model.safetensors", self.agent.averaged_actor.state_dict())

        state = folder / checkpoint.TRAINING_STATE
        state.mkdir()
        env_counters, env_arrays = self.env.state_dict()
        tensors = {
            "agent": self.agent.state_dict(),
            "replay": self.buffer.state_dict(),
            "window": self.window.state_dict(),
            "env": {name: torch.from_numpy(array) for name, array in env_arrays.items()},
            "detours": {name: torch.from_numpy(array) for name, array in self.detours.state_dict().items()},
            "trainer": {"sampling": self.sampling.get_state()},
            "metrics": {name: value.clone() for name, value in self._metrics.items()},
        }
        counters = {
            "env_steps": self.env_steps,
            "updates": self.agent.updates,
            "replay_position": self.buffer.position,
            "evaluation": self.evaluation,
            "best": self.checkpoints.best,
            "kept": self.checkpoints.kept,
            "returns": list(self.returns),
            "successes": list(self.successes),
            "exploration": self.exploration.bit_generator.state,
            "env": env_counters,
        }
        flat = {f"{part}.{name}": value for part, values in tensors.items() for name, value in values.items()}
        checkpoint.save_tensors(state / "tensors.safetensors", flat)
        checkpoint.save_json(state / "counters.json", counters)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint as if the training had not stopped.

        Raises:
            UserError: it is not whole, or not of this configuration.
        """
        state = folder / checkpoint.TRAINING_STATE
        counters = checkpoint.load_json(state / "counters.json")
        flat = checkpoint.load_tensors(state / "tensors.safetensors")

        def part(name: str) -> dict[str, torch.Tensor]:
            return {
                key.removeprefix(f"{name}."): value
                for key, value in flat.items()
                if key.startswith(f"{name}.")
            }

        try:
            self.agent.load_state_dict(part("agent"), counters["updates"])
            self.buffer.load_state_dict(part("replay"), counters["replay_position"])
            self.window.load_state_dict(part("window"))
            restore_generator(self.sampling, flat["trainer.sampling"], counters["updates"])
            self.exploration.bit_generator.state = counters["exploration"]
            self.detours.load_state_dict({name: tensor.numpy() for name, tensor in part("detours").items()})
            env_arrays = {name: tensor.numpy() for name, tensor in part("env").items()}
            self.observations = self.env.load_state_dict(counters["env"], env_arrays)
            self.env_steps, self.evaluation = int(counters["env_steps"]), dict(counters["evaluation"])
            self.checkpoints.best, self.checkpoints.kept = dict(counters["best"]), list(counters["kept"])
            self.returns.extend(counters["returns"])
            self.successes.extend(counters["successes"])
            self._metrics = part("metrics")
        except (KeyError, RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())  # torch's take several lines
            raise UserError(f"{state}: not the state of such a training: {reason}") from None


def _merit(evaluation: dict[str, Any]) -> tuple[float, float]:
    """What makes one checkpoint better than another: it succeeds more often; as often, but in fewer steps."""
    steps = evaluation["mean_steps_to_success"]
    return evaluation["success_rate"], -math.inf if steps is None else -steps
