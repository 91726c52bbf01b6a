"""The training loop: act, step, update, store, log, evaluate, save; and the exact resume.

The environments step while the networks are updated, each on a core of its own. The updates draw from what
was stored before, so the result depends neither on which of them is faster nor on the number of cores.

It knows the environment as an `envs.interfaces.TrainingEnv` and the evaluation as numbers and a line.
"""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any

import numpy as np
import torch

from common.bounds import Above, Between, Count, Share, Steps
from common.checkpoint import Checkpoints, write_folder
from common.errors import UserError
from common.training import (
    Evaluation,
    Log,
    LoopConfig,
    crossed,
    evaluate,
    evaluation_due,
    progress_bar,
)
from envs.interfaces import Observations, Step, TrainingEnv
from envs.steering import Frozen
from sac.agent import SAC
from sac.checkpoint import load, results, write
from sac.demonstrations import Drawn, OfflineData
from sac.encoder import Decoder, gallery, to_tensors
from sac.exploration import Detours
from sac.replay import make_replay
from sac.replay_buffer import Pixels
from sac.smoothing import RewardSmoothing

RECONSTRUCTIONS = 8  # shown in TensorBoard with an evaluation


@dataclass(frozen=True)
class TrainingConfig(LoopConfig):
    """The training loop. All counts are environment steps, summed over the parallel environments."""

    start_steps: Steps = 5_000  # played before anything is learnt; random actions, unless offline.steps
    utd: Annotated[float, Above(0, 1_000)] = 1 / 80  # updates per environment step
    greedy_share: Share = 0.25  # of the environments play the mode: the replay learns where it gets stuck
    detour_share: Share = 0.0  # of them get offsets on their actions now and then, see sac/exploration.py
    env_threads: Annotated[int, Between(0, 1)] = 1  # for the environments beside the updates; 0: in turns
    buffer_capacity: Annotated[int, Above(0, 10**15)] = 1_000_000  # transitions, or pictures
    log_every: Annotated[int, Between(1, 10**12)] = 16_000  # env steps between logged losses
    eval_every: Steps = 400_000  # env steps between evaluations, each after a checkpoint; 0: at the end
    video_every: Steps = 800_000  # env steps between rollouts shown in TensorBoard; 0: none
    eval_episodes: Count = 200  # per evaluation, the same seeds each time
    best_from: Steps = 0  # env steps before which no checkpoint is the best

    def updates_due(self, env_steps: int) -> int:
        """After so many environment steps; those before the first step come on top."""
        return max(int((env_steps - self.start_steps) * self.utd), 0)


Played = tuple[Step, Observations]  # and the observations from which the next decisions are made


class Trainer:
    """Trains `agent` in `env`.

    Args:
        config: of the loop.
        total_env_steps: length of the whole training.
        env: what is played.
        agent: learns.
        evaluation: plays the averaged actor; its ranking chooses the best checkpoint.
        policy_config: what a checkpoint's `config.json` says of the policy beside its weights.
        folder: of the run.
        seeds: `exploration` and `replay`.
        demonstrations: learnt from before the first step, and beside the replay; None: there are none.
        frozen: the policy that is steered, which each checkpoint has a copy of; None: there is none.
    """

    def __init__(
        self,
        config: TrainingConfig,
        total_env_steps: int,
        env: TrainingEnv,
        agent: SAC,
        evaluation: Evaluation,
        policy_config: dict[str, Any],
        folder: Path,
        seeds: dict[str, int],
        demonstrations: OfflineData | None = None,
        frozen: Frozen | None = None,
    ) -> None:
        self.config = config
        self.total_env_steps = total_env_steps
        self.env = env
        self.agent = agent
        self.evaluation = evaluation
        self.policy_config = policy_config
        self.demonstrations = demonstrations
        self.frozen = frozen
        self.offline_updates = demonstrations.config.steps if demonstrations else 0  # before the first step
        self.checkpoints = Checkpoints(folder / "checkpoints", "env_steps")

        self.replay = make_replay(
            env, config.buffer_capacity, agent.config, agent.device, action_size=agent.executed_size
        )
        self.smoothing = RewardSmoothing(agent.config.reward_smoothing, env.num_envs)
        self.exploration = np.random.default_rng(seeds["exploration"])
        detours = int(config.detour_share * env.num_envs)
        self.detours = Detours(env.num_envs, env.action_size, detours, self.exploration)
        self.sampling = torch.Generator(agent.device).manual_seed(seeds["replay"])

        self.env_steps = 0
        self.evaluated: dict[str, Any] = {}  # the latest summary
        self.returns: deque[float] = deque(maxlen=100)  # of the latest episodes, the task's own reward
        self.successes: deque[float] = deque(maxlen=100)
        self.observations = env.reset()
        self.metrics: dict[str, torch.Tensor] = {}  # of the latest update

    def train(self, logger: Log, stop: Callable[[], bool]) -> bool:
        """Train up to `total_env_steps`, or until `stop` says so; either way everything is saved.

        Returns:
            whether the training is finished.

        Raises:
            UserError: a loss is not finite, or a checkpoint cannot be written.
        """
        self.checkpoints.tidy()
        self.checkpoints.check_room(self._checkpoint_bytes())
        config, total = self.config, self.total_env_steps
        self._learn_offline(logger, stop)
        started, resumed_at, updates_before = perf_counter(), self.env_steps, self.agent.updates
        with progress_bar(total, self.env_steps) as bar, self._env_thread() as advance:
            while not stop():
                if self._evaluation_due():
                    self._evaluate(logger)
                    bar.write(f"{self.env_steps:>10,} env steps: {self.evaluation.line(self.evaluated)}")
                if self.env_steps >= total:
                    break
                before = self.env_steps
                actions = self._act()
                playing = advance(actions)
                self._learn()
                self._store(actions, *playing())
                bar.update(self.env_steps - before)

                if crossed(config.log_every, before, self.env_steps):
                    seconds = perf_counter() - started
                    self._log(
                        logger, seconds, self.env_steps - resumed_at, self.agent.updates - updates_before
                    )
                    bar.set_postfix_str(self._status())
                if crossed(config.keep_every, before, self.env_steps):
                    self.checkpoints.keep(self.env_steps)
                    self.save()
        self.save()
        return self.env_steps >= total and not self._evaluation_due()

    def _learn_offline(self, logger: Log, stop: Callable[[], bool]) -> None:
        """The updates before the first step, from demonstrations alone; log and evaluate what they reach."""
        if self.env_steps or not self.demonstrations or not self.offline_updates:
            return
        batch_size = self.agent.config.batch_size
        with progress_bar(self.offline_updates, self.agent.updates) as bar:
            while self.agent.updates < self.offline_updates and not stop():
                self.metrics = self.agent.update(*self.demonstrations.sample(batch_size, self.sampling))
                bar.update()
            if self.offline_over and not self.evaluated and not stop():
                logger.log(0, {name: float(value) for name, value in self.metrics.items()})
                self._evaluate(logger)
                bar.write(f"{self.agent.updates:>10,} updates: {self.evaluation.line(self.evaluated)}")

    @property
    def offline_over(self) -> bool:
        """Whether the updates before the first step are done."""
        return self.agent.updates >= self.offline_updates

    @contextmanager
    def _env_thread(self) -> Iterator[Callable[[np.ndarray], Callable[[], Played]]]:
        """How the environments take a decision: it is begun by one call and returned by the next."""
        if not self.config.env_threads:
            yield lambda actions: partial(self._advance, actions)
            return
        with ThreadPoolExecutor(self.config.env_threads) as thread:
            yield lambda actions: thread.submit(self._advance, actions).result

    def _act(self) -> np.ndarray:
        """The next decision of every environment, (n, A)."""
        if self.env_steps < self.config.start_steps and not self.offline_updates:
            return self.env.random_actions(self.exploration)
        observations = to_tensors(self.observations, self.agent.device)
        num_greedy = int(self.config.greedy_share * self.env.num_envs)
        return self.detours(self.agent.act(observations, num_greedy).cpu().numpy())

    def _advance(self, actions: np.ndarray) -> Played:
        step = self.env.step(actions)
        ended = step.terminated | step.truncated
        return step, self.env.reset(ended) if ended.any() else step.observations

    def _store(self, actions: np.ndarray, step: Step, next_observations: Observations) -> None:
        """Into the replay; go on from `next_observations`, where ended episodes have begun anew."""
        executed = actions if step.executed is None else step.executed
        self.replay.add(self.observations, executed, self.smoothing(step), next_observations)
        self.env_steps += int(step.durations.sum())
        counted = (step.terminated | step.truncated) & ~np.isnan(step.returns)
        self.returns.extend(step.returns[counted].tolist())
        if step.is_success is not None:
            self.successes.extend(step.is_success[counted].tolist())
        self.observations = next_observations

    def _learn(self) -> None:
        """`utd` updates per environment step since learning began."""
        due = self.updates_due(self.env_steps)
        while self.agent.updates < due and self.replay.size:
            self.metrics = self.agent.update(*self._batch(self.agent.config.batch_size))

    def _batch(self, size: int) -> Drawn:
        if not self.demonstrations:
            return self.replay.sample(size, self.sampling), None
        return self.demonstrations.mixed(self.replay, size, self.env_steps, self.sampling)

    def updates_due(self, env_steps: int) -> int:
        return self.offline_updates + self.config.updates_due(env_steps)

    def _log(self, logger: Log, seconds: float, env_steps: int, updates: int) -> None:
        self._check_finite()
        row = {name: float(value) for name, value in self.metrics.items()}
        if self.returns:
            row |= {"Reward/episode": self.returns[-1], "Reward/mean_100": float(np.mean(self.returns))}
        if self.successes:
            row["Episode/success_100"] = float(np.mean(self.successes))
        row |= {
            "Throughput/env_steps_per_s": env_steps / seconds,
            "Throughput/updates_per_s": updates / seconds,
        }
        logger.log(self.env_steps, row)

    def _evaluation_due(self) -> bool:
        evaluated = self.evaluated.get("env_steps", 0)
        return evaluation_due(self.config.eval_every, self.total_env_steps, evaluated, self.env_steps)

    def _evaluate(self, logger: Log) -> None:
        """Save, play the evaluation's episodes with the averaged actor, log, and add the numbers."""
        self.save()  # a kill costs no more than the evaluation, which a resumed run plays
        before, at_end = self.evaluated.get("env_steps", 0), self.env_steps >= self.total_env_steps
        video_every = self.config.video_every
        self.evaluated = evaluate(
            self.evaluation,
            self.agent.averaged_actor,
            self.env_steps,
            logger,
            self.checkpoints,
            video=video_every > 0 and (at_end or crossed(video_every, before, self.env_steps)),
            may_be_best=self.env_steps >= self.config.best_from,
        )
        self.checkpoints.add(self.env_steps, results(self))
        if isinstance(self.agent.decoder, Decoder) and self.replay.size:
            self._show_reconstructions(logger)

    def _show_reconstructions(self, logger: Log) -> None:
        """Pictures from the replay; the training's own generators do not notice."""
        generator = torch.Generator(self.agent.device).manual_seed(self.env_steps)
        seen = self.replay.sample(RECONSTRUCTIONS, generator).observations
        assert isinstance(seen, Pixels)
        seen = Pixels(*(part[:RECONSTRUCTIONS] for part in seen))  # one view of each
        colours = seen.pixels.shape[1] // self.env.stack
        picture = gallery(seen.pixels, self.agent.reconstruct(seen), colours)
        logger.image(self.env_steps, "Reconstruction", picture)

    def _check_finite(self) -> None:
        """Stop before losses or weights that are not finite are called a checkpoint."""
        for name, values in (self.metrics | self.agent.state_dict()).items():
            if not values.isfinite().all():
                failed = self.checkpoints.folder.parent / f"failed_{self.env_steps:08d}"
                write_folder(failed, partial(write, self))
                raise UserError(
                    f"{name} is not finite after {self.env_steps:,} env steps: try a smaller lr or a "
                    f"grad_clip; the state is saved in {failed}, earlier checkpoints are intact"
                )

    def _status(self) -> str:
        evaluated = self.evaluation.line(self.evaluated) if self.evaluated else "not evaluated yet"
        recent = f"{np.mean(self.returns):.1f}" if self.returns else "-"
        return f"{evaluated}; exploring: return {recent}; updates {self.agent.updates}"

    def save(self) -> None:
        """Write a checkpoint, let `last` lead to it and `best` to the best one up to here.

        Raises:
            UserError: a loss or a weight is not finite, or it cannot be written; the earlier ones are intact.
        """
        self._check_finite()
        before = None if self.offline_over else self.agent.updates
        self.checkpoints.save(self.env_steps, partial(write, self), before)

    def _checkpoint_bytes(self) -> int:
        """What a checkpoint takes in the end, but for little things."""
        agent = sum(tensor.nbytes for tensor in self.agent.state_dict().values())
        return agent + self.replay.full_bytes(self.total_env_steps // self.env.decision_steps)

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint as if the training had not stopped.

        Raises:
            UserError: it is not whole, or not of this configuration.
        """
        load(self, folder)
