"""Executed actions against what a player plays, and against equations that are known."""

import numpy as np
import pytest
import torch

from common.errors import UserError
from envs.aliasing import NoiseAliasing
from envs.pusht.task import PushT
from envs.steering import Steering, SteeringConfig, SteeringEnv
from tests.act import tiny_act, tiny_diffusion, tiny_flow
from tests.act.tiny import player_of
from tests.envs.wanderer import SHAPE, Wanderer

TASK = PushT(num_envs=3, mirror=False)
SEEN_SIZE = TASK.codec(0).observation_size


def flow_player():
    return player_of(tiny_flow.make())


def diffusion_player():
    return player_of(tiny_diffusion.make(n_obs_steps=2))


def act_player():
    return player_of(tiny_act.make())


def make_env(policy, seed=1, **settings):
    """A training environment that a learner steers in, with aliasing."""
    steering = Steering(policy, SteeringConfig(**settings), TASK)
    task_env = TASK.training_env(seed, gamma=0.9)
    task_env.env.max_episode_steps = 7
    task_env.history = history = steering.new_history()
    task_env.reset()
    aliasing = NoiseAliasing(steering, history.observations if history else task_env.raw, SEEN_SIZE)
    return SteeringEnv(task_env, steering, aliasing)


@pytest.mark.parametrize(
    ("make_player", "noise"),
    [(Wanderer, "dct"), (flow_player, "executed"), (diffusion_player, "executed"), (act_player, "full")],
)
def test_what_the_critics_compute_is_what_was_played(make_player, noise, monkeypatch):
    env = make_env(policy := make_player(), bound=1.5, noise=noise)
    played, aliasing = [], env.aliasing
    play = env.env.play
    monkeypatch.setattr(env.env, "play", lambda chunk: played.append(chunk) or play(chunk))
    seen, rng = env.reset(), np.random.default_rng(0)
    for _ in range(6):
        actions = rng.uniform(-1, 1, (3, env.action_size)).astype(np.float32)
        step = env.step(actions)
        computed = aliasing.execute(torch.from_numpy(seen), torch.from_numpy(actions))
        np.testing.assert_allclose(computed, step.executed, atol=2e-4)
        zero = aliasing.execute(torch.from_numpy(seen), torch.zeros(3, env.action_size))
        np.testing.assert_allclose(zero, 0.0, atol=2e-4)

        middle = seen[:, SEEN_SIZE + aliasing.inputs_size :].reshape(3, -1, 2)
        units = step.executed.reshape(3, -1, 2) * aliasing.spread + middle
        np.testing.assert_allclose(units.swapaxes(0, 1), played[-1], rtol=1e-5, atol=1e-3)
        ended = step.terminated | step.truncated
        seen = env.reset(ended) if ended.any() else step.observations
    assert len(played[0]) == policy.n_action_steps and np.abs(step.executed).max() > 0.3


@pytest.mark.parametrize("make_player", [act_player, diffusion_player])
def test_environment_and_critics_may_ask_at_the_same_time(make_player):
    """As from two threads: the critics ask in the middle of what the environment asks."""
    env = make_env(policy := make_player(), noise="full")
    seen, noise = torch.from_numpy(env.reset()), np.ones((3, *policy.noise_shape))
    actions = torch.full((3, env.action_size), -0.5)
    raw = env.env.history.observations if env.env.history else env.env.raw
    alone = policy.chunk(raw, noise), env.aliasing.execute(seen, actions)
    between = []
    *_, last = policy.policy.modules()
    last.register_forward_pre_hook(lambda *_: between.append(env.aliasing.execute(seen, actions)))
    np.testing.assert_array_equal(policy.chunk(raw, noise), alone[0])
    assert between and all(torch.equal(each, alone[1]) for each in between)


def test_actions_at_the_tasks_bounds_are_clipped_for_both():
    env = make_env(flow_player(), noise="full", bound=50.0)
    seen = env.reset()
    actions = np.ones((3, env.action_size), np.float32)
    step = env.step(actions)
    middle = seen[:, SEEN_SIZE + env.aliasing.inputs_size :].reshape(3, -1, 2)
    units = step.executed.reshape(3, -1, 2) * env.aliasing.spread + middle
    assert np.isclose(units, 512.0).any() or np.isclose(units, 0.0, atol=1e-3).any()
    computed = env.aliasing.execute(torch.from_numpy(seen), torch.from_numpy(actions))
    np.testing.assert_allclose(computed, step.executed, atol=2e-4)


def test_the_spread_is_that_of_the_noise_and_the_learner_sees_what_it_saw_without():
    env = make_env(Wanderer(), noise="full", n_action_steps=6)
    # the sum of the first t of the noise's steps has a deviation of 20 sqrt(t), of 3 x 16 draws nearly
    expected = 20.0 * np.sqrt(np.arange(1, 7)).mean()
    np.testing.assert_allclose(env.aliasing.spread, expected, rtol=0.15)
    plain = TASK.training_env(5, gamma=0.9)
    aliased = SteeringEnv(TASK.training_env(5, gamma=0.9), env.steering, env.aliasing)
    seen, beside = np.split(aliased.reset(), [SEEN_SIZE], axis=1)
    np.testing.assert_array_equal(seen, plain.reset())
    agent = plain.raw["agent_pos"].astype(np.float32)
    np.testing.assert_allclose(beside, np.tile(agent, 1 + SHAPE[0]))


def test_its_state_is_restored_in_the_middle_of_an_episode():
    env, again = make_env(diffusion_player(), seed=3), make_env(diffusion_player(), seed=3)
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 3, env.action_size))
    seen = env.step(actions[0]).observations
    np.testing.assert_array_equal(again.load_state_dict(*env.state_dict()), seen)
    for ours, theirs in zip(again.step(actions[1]), env.step(actions[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_pictures_are_refused():
    policy = Wanderer()
    policy.image_size = 96
    starts = {"agent_pos": np.zeros((2, 2))}
    with pytest.raises(
        UserError, match="noise_aliasing must be false: the replay holds what steering.policy"
    ):
        NoiseAliasing(Steering(policy, SteeringConfig(), TASK), starts, SEEN_SIZE)
    env = TASK.training_env(1, gamma=0.9)
    env.pixel_shape = (8, 8, 3)
    steering = Steering(Wanderer(), SteeringConfig(), TASK)
    with pytest.raises(UserError, match="noise_aliasing must be false where the learner sees pictures"):
        SteeringEnv(env, steering, NoiseAliasing(steering, starts, SEEN_SIZE))
