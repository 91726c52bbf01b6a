"""Smoothed rewards, beside sums written out."""

from dataclasses import replace

import numpy as np
import pytest

from envs.interfaces import Step
from sac.replay_buffer import NStepWindow
from sac.smoothing import RewardSmoothing
from tests.sac.walk import AGENT, assert_same_run, run

SHARE = 0.75


def steps(count: int, rng: np.random.Generator) -> list[Step]:
    """Of three environments, whose episodes end one way or the other, or go on."""
    made = []
    for _ in range(count):
        terminated, timed_out = rng.random((2, 3)) < 0.2
        rewards = rng.normal(size=3)
        truncated = timed_out & ~terminated
        made.append(Step(np.zeros((3, 1)), rewards, terminated, truncated, np.ones(3, int), None, rewards))
    return made


def test_each_reward_is_a_weighted_sum_of_those_before_and_a_terminated_episode_has_the_same_sum():
    played = steps(60, np.random.default_rng(0))
    smoothing = RewardSmoothing(SHARE, num_envs=3)
    smoothed = np.stack([smoothing(step).rewards for step in played])
    rewards = np.stack([step.rewards for step in played])
    seen = set()
    for env in range(3):
        begin = 0
        for t, step in enumerate(played):
            terminated, truncated = step.terminated[env], step.truncated[env]
            own = rewards[begin : t + 1, env]
            expected = sum((1 - SHARE) * SHARE**k * reward for k, reward in enumerate(own[::-1]))
            if terminated:
                expected = own.sum() - smoothed[begin:t, env].sum()
            np.testing.assert_allclose(smoothed[t, env], expected, rtol=1e-9, atol=1e-12)
            if terminated or truncated:
                begin = t + 1
                seen.add((bool(terminated), len(own) > 1))
    assert seen == {(True, True), (True, False), (False, True), (False, False)}


def test_without_it_steps_stay_as_they_are():
    for step in steps(20, np.random.default_rng(1)):
        assert np.array_equal(RewardSmoothing(0.0, num_envs=3)(step).rewards, step.rewards)


@pytest.mark.slow
@pytest.mark.parametrize("plays", [5, 9, 22])
def test_a_training_resumes_with_its_averages(tmp_path, plays):
    agent = replace(AGENT, reward_smoothing=SHARE)
    _, rows = run(tmp_path / "whole", agent=agent)
    _, first = run(tmp_path / "stopped", plays, agent=agent)
    assert first + run(tmp_path / "stopped", agent=agent)[1] == rows
    assert_same_run(tmp_path / "stopped", tmp_path / "whole")


def test_the_replay_has_them_and_the_log_has_not(tmp_path, monkeypatch):
    stored, add = [], NStepWindow.add
    monkeypatch.setattr(NStepWindow, "add", lambda *args: (stored.append(args[3]), add(*args))[1])
    plain, _ = run(tmp_path / "plain", plays=5)
    rewards = stored.copy()
    stored.clear()
    smoothed, _ = run(tmp_path / "smoothed", plays=5, agent=replace(AGENT, reward_smoothing=SHARE))
    assert plain.returns == smoothed.returns
    np.testing.assert_allclose(stored[0], (1 - SHARE) * rewards[0])
    assert not np.allclose(stored, rewards)
