"""What the loop does, beside loops written out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from envs.interfaces import Step, Symmetry
from sac.agent import SAC
from sac.augmentation import Mirror
from sac.config import AgentConfig
from sac.exploration import Detours
from sac.replay_buffer import NStepWindow, ReplayBuffer
from sac.trainer import Trainer, TrainingConfig
from tests.sac.walk import SEEDS, TRAINING, Evaluation, Rows, Walk, contents, make_trainer, run


def test_the_loop_does_what_a_plain_one_does(uninterrupted):
    """Env steps, updates, logs, evaluations and checkpoints fall where counting on the fingers puts them."""
    folder, rows = uninterrupted
    counters = contents(folder / "checkpoints/last")["counters"]
    assert counters["env_steps"] == 80 and counters["updates"] == (80 - 12) // 8
    logged = [step for step, scalars in rows if "Eval/score" not in scalars]
    evaluated = [step for step, scalars in rows if "Eval/score" in scalars]
    assert logged == [10, 20, 30, 40, 50, 60, 70, 80] and evaluated == [20, 40, 60, 80]
    assert "Loss/critic1" not in rows[0][1] and "Loss/critic1" in rows[-2][1]

    rates = {step: scalars["Eval/score"] for step, scalars in rows if "Eval/score" in scalars}
    best = max(rates, key=rates.get)
    assert (folder / "checkpoints/best").readlink() == Path(f"step_{best:08d}")
    assert best != 80, "evaluate() above has to make an earlier checkpoint the best one"
    names = {f"step_{step:08d}" for step in (40, 80, best)} | {"best", "last"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == names


@pytest.mark.parametrize(("best_from", "expected"), [(0, [0, 1, 2, 2, 4]), (3, [None, None, None, 3, 4])])
def test_the_best_ranks_highest_and_of_equals_is_the_latest(tmp_path, best_from, expected):
    trainer = make_trainer(tmp_path, training=replace(TRAINING, best_from=best_from))
    chosen = []
    for env_steps, score in enumerate([0.0, 0.5, 0.7, 0.6, 0.7]):
        trainer.env_steps = env_steps
        trainer.evaluation.summary = lambda actor, score=score: {"score": score}
        trainer._evaluate(Rows())
        chosen.append(trainer.checkpoints.best.get("env_steps"))
        assert (tmp_path / "checkpoints/best").exists() == (chosen[-1] is not None)
    assert chosen == expected


class Crowd(Walk):
    """Eight of them, as if the task had a mirror image, of whose episodes every other begins unusually."""

    num_envs = 8
    symmetry = Symmetry(
        np.array([0, 1]), np.array([-1, 1], np.float32), np.array([0]), np.array([-1], np.float32)
    )
    usual = np.arange(8) % 2 == 0

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.played: list[np.ndarray] = []

    def step(self, actions: np.ndarray) -> Step:
        self.played.append(actions)
        step = super().step(actions)
        return step._replace(returns=np.where(self.usual, step.returns, np.nan))


def plain_loop(env: Crowd, agent: SAC) -> tuple[Rows, ReplayBuffer]:
    """The training that the next test configures, with its numbers in place of their names."""
    rng = np.random.default_rng(SEEDS["exploration"])
    detours = Detours(num_envs=8, action_size=1, count=4, rng=rng)
    window = NStepWindow(num_envs=8, observation_size=2, action_size=1, n_step=3, gamma=0.9)
    buffer, mirror = ReplayBuffer(200, observation_size=2, action_size=1), Mirror(Crowd.symmetry, "cpu")
    sampling = torch.Generator().manual_seed(SEEDS["replay"])
    rows, returns, successes, evaluation = Rows(), [], [], Evaluation()
    observations = env.reset()
    for env_steps in range(8, 1401, 8):
        if env_steps <= 24:
            actions = rng.uniform(-1, 1, (8, 1)).astype(np.float32)
        else:
            actions = detours(agent.act(torch.from_numpy(observations), num_greedy=2).numpy())
        if env_steps > 32:
            metrics = agent.update(mirror(buffer.sample(16, sampling)))
        following, rewards, terminated, truncated, durations, _, running, _ = env.step(actions)
        outcome = rewards, following, terminated, truncated, durations
        buffer.add(window.add(observations, actions, *outcome))
        ended = terminated | truncated
        for i in (0, 2, 4, 6):  # where all episodes begin as usual
            if ended[i]:
                returns.append(running[i])
                successes.append(terminated[i])
        observations = env.reset(ended)

        if env_steps % 80 == 0:
            rewards = {"Reward/episode": returns[-1], "Reward/mean_100": np.mean(returns[-100:])}
            metrics |= rewards | {"Episode/success_100": np.mean(successes[-100:])}
            rows.log(env_steps, {name: float(value) for name, value in metrics.items()})
        if env_steps % 200 == 0:
            rows.log(env_steps, evaluation.scalars(evaluation.summary(agent.averaged_actor)))
        if env_steps in (400, 800, 1200, 1400):  # each 400 and the end
            rows.video(env_steps, evaluation.frames(agent.averaged_actor), fps=10)
    assert len(returns) > 100 and 0 < sum(successes) < len(successes)
    return rows, buffer


@pytest.mark.slow
@pytest.mark.parametrize("env_threads", [0, 1])
def test_actions_replay_numbers_and_weights_are_those_of_a_plain_loop(tmp_path, env_threads):
    agents = [
        SAC(2, 1, AgentConfig((4,), batch_size=16, n_step=3, gamma=0.9, actor_ema=0.9), 172, SEEDS["torch"])
        for _ in range(2)
    ]
    envs = [Crowd(SEEDS["environment"]) for _ in range(2)]
    expected_rows, expected_buffer = plain_loop(envs[1], agents[1])

    training = TrainingConfig(
        start_steps=24,
        utd=0.125,
        greedy_share=0.25,
        detour_share=0.5,
        env_threads=env_threads,
        buffer_capacity=200,
        log_every=80,
        eval_every=200,
        video_every=400,
    )
    rows = Rows()
    trainer = Trainer(training, 1400, envs[0], agents[0], Evaluation(), {}, tmp_path, SEEDS)
    assert trainer.train(rows, stop=lambda: False)
    np.testing.assert_array_equal(envs[0].played, envs[1].played)
    for stored, expected in zip(trainer.replay.buffer.held(), expected_buffer.held(), strict=True):
        assert torch.equal(stored, expected)
    assert rows == expected_rows
    saved = contents(tmp_path / "checkpoints/last")
    averaged = {name: tensor.tolist() for name, tensor in agents[1].averaged_actor.state_dict().items()}
    assert saved["model"] == averaged
    for name, tensor in agents[1].state_dict().items():
        assert saved["state"][f"agent.{name}"] == tensor.tolist(), name


@pytest.mark.parametrize("plays", [1000, 17])
def test_videos_come_with_evaluations_and_checkpoints_that_stay_when_they_are_due(tmp_path, plays):
    often = replace(TRAINING, keep_every=30, video_every=30)
    rows = run(tmp_path, plays, training=often)[1] + run(tmp_path, training=often)[1]
    assert [step for step, shown in rows if "Rollout" in shown] == [40, 60, 80]
    kept = contents(tmp_path / "checkpoints/last")["counters"]["kept"]
    assert kept == ["step_00000030", "step_00000060"]
    assert all((tmp_path / "checkpoints" / name).is_dir() for name in kept)


def test_learning_waits_for_the_first_complete_transition(tmp_path):
    """Without random steps and with a long return, updates are due before anything can be sampled."""
    agent = AgentConfig(hidden_sizes=(4,), batch_size=4, n_step=5)
    learner = SAC(2, 1, agent, total_updates=40, seed=0)
    training = TrainingConfig(start_steps=0, utd=1.0, buffer_capacity=30, video_every=0)
    trainer = Trainer(training, 20, Walk(1), learner, Evaluation(), {}, tmp_path, SEEDS)
    trainer.train(Rows(), stop=lambda: False)
    assert learner.updates == 18  # two plays of two each; none of what the last one stored
