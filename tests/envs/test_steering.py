import cv2
import numpy as np
import pytest
import torch

from common.errors import UserError
from envs.pusht.observations import features
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from envs.steering import Steering, SteeringConfig, SteeringEnv, directions
from sac.actor import Actor
from sac.policy import SACPolicy
from tests.act import tiny_diffusion
from tests.act.tiny import player_of
from tests.envs.wanderer import SHAPE, Wanderer

SEEN = ("agent_pos", "block_pos", "block_rotation", "target_lead")


@pytest.mark.parametrize("kind", ["full", "executed", "dct"])
def test_directions_of_the_noise_are_orthonormal(kind):
    found = directions(SteeringConfig(noise=kind, rank=3), SHAPE, range(4))
    flat = found.reshape(len(found), -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(len(found)), atol=1e-12)
    assert len(found) == {"full": 12, "executed": 8, "dct": 6}[kind]
    assert (found[:, 4:] == 0).all() == (kind == "executed")


def test_the_slow_ones_are_opencvs_cosines_and_the_repeated_one_is_far_from_unit_length():
    slow = directions(SteeringConfig(noise="dct", rank=6), SHAPE, range(4))
    theirs = cv2.idct(np.eye(6), flags=cv2.DCT_ROWS)
    for k in range(6):
        for a in range(2):
            expected = np.zeros(SHAPE)
            expected[:, a] = theirs[k]
            np.testing.assert_allclose(slow[2 * k + a], expected, atol=1e-12)
    repeated = directions(SteeringConfig(noise="repeated"), SHAPE, range(4))
    np.testing.assert_array_equal(repeated[0], np.tile([1.0, 0.0], (6, 1)))


def test_actions_are_the_noise_in_standard_deviations_and_those_drawn_are_the_policys_own():
    config = SteeringConfig(noise="full", bound=3.0)
    steering = Steering(Wanderer(), config, PushT())
    actions = np.random.default_rng(0).uniform(-1, 1, (5, 12))
    np.testing.assert_allclose(steering.noise(actions), 3.0 * actions.reshape(5, *SHAPE))
    noise = steering.noise(steering.random_actions(np.random.default_rng(1), 4_000))
    assert abs(noise.mean()) < 0.02 and abs(noise.std() - 1.0) < 0.02 and abs(noise).max() <= 3.0


@pytest.mark.parametrize("n_action_steps", [1, 4, 6])
def test_a_decision_is_its_chunk_played_step_by_step(n_action_steps):
    """Rewards discounted step by step, nothing after the end, as many steps as were played."""
    task = PushT(num_envs=3, features=SEEN, mirror=False, curriculum=1.0)
    steering = Steering(Wanderer(), SteeringConfig(n_action_steps=n_action_steps, noise="full"), PushT())
    env = SteeringEnv(task.training_env(seed=5, gamma=0.9), steering)
    env.env.env.max_episode_steps = 10
    twin = task.training_env(seed=5, gamma=0.9)
    twin.env.max_episode_steps = 10
    np.testing.assert_array_equal(env.reset(), twin.reset())
    rng, lengths = np.random.default_rng(0), []
    while len(lengths) < 6:
        actions = rng.uniform(-1, 1, (3, env.action_size))
        chunk = Wanderer().chunk(twin.raw, 2.0 * actions.reshape(3, *SHAPE))
        rewards, durations, ended = np.zeros(3), np.zeros(3, int), np.zeros(3, bool)
        for t in range(n_action_steps):
            twin.codec.last_target[~ended] = chunk[~ended, t]
            step = twin.play(chunk[None, :, t])
            rewards += 0.9**t * step.rewards
            durations += step.durations
            ended |= step.terminated | step.truncated
        step = env.step(actions)
        np.testing.assert_allclose(step.rewards, rewards, rtol=1e-12)
        np.testing.assert_array_equal(step.durations, durations)
        np.testing.assert_array_equal(step.terminated | step.truncated, ended)
        seen = twin.codec.encode(twin.raw)
        np.testing.assert_array_equal(step.observations[~ended], seen[~ended])
        np.testing.assert_array_equal(step.observations[:, :6], seen[:, :6])  # without the last target
        lengths += list(durations[ended])
        if ended.any():
            np.testing.assert_array_equal(env.reset(ended), twin.reset(ended))
    assert n_action_steps in (1, 6) or 2 in lengths  # 10 steps are no multiple of 4


def test_its_state_is_restored_in_the_middle_of_an_episode():
    def make():
        return SteeringEnv(
            PushT(num_envs=2, mirror=False).training_env(3, 0.9),
            Steering(Wanderer(), SteeringConfig(), PushT()),
        )

    env, again = make(), make()
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 2, env.action_size))
    seen = env.step(actions[0]).observations
    np.testing.assert_array_equal(again.load_state_dict(*env.state_dict()), seen)
    for ours, theirs in zip(again.step(actions[1]), env.step(actions[1]), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_steered_policy_plays_chunk_after_chunk_from_its_own_features():
    torch.manual_seed(0)
    task, steering = (
        PushT(features=SEEN, mirror=False),
        Steering(Wanderer(), SteeringConfig(bound=1.0), PushT()),
    )
    actor = Actor(task.codec(0).observation_size, steering.action_size, [8])
    policy = SACPolicy(actor, task, escapes=False, steering=steering)
    seeds = range(500, 503)
    episodes = {e.seed: e for e in rollout(PushTVectorEnv(2, max_episode_steps=11), policy, seeds)}

    for seed in seeds:
        env = PushTVectorEnv(1, max_episode_steps=11)
        raw, _ = env.reset(seed=[seed])
        played = [raw["agent_pos"][0]]
        while env.active.any():
            seen = features(raw | {"last_target": played[-1][None]}, task.features)
            with torch.no_grad():
                noise = steering.noise(actor.mode(torch.from_numpy(seen)).numpy())
            for action in Wanderer().chunk(raw, noise)[0, :4][: 12 - len(played)]:
                played.append(action)
                raw, *_ = env.step(action[None])
        np.testing.assert_allclose(episodes[seed].actions, played[1:], atol=1e-3)


def test_an_environment_that_repeats_or_mirrors_is_refused():
    steering = Steering(Wanderer(), SteeringConfig(), PushT())
    for task, message in (
        (PushT(num_envs=1), "env.mirror must be false with steering.policy"),
        (
            PushT(num_envs=1, mirror=False, action_repeat=2),
            "env.action_repeat must be 1 with steering.policy",
        ),
    ):
        with pytest.raises(UserError, match=message):
            SteeringEnv(task.training_env(0, 0.9), steering)


def test_actions_that_are_not_finite_are_not_played():
    policy = Wanderer()
    policy.chunk = lambda observations, noise: np.full((len(noise), 6, 2), np.nan)
    steering = Steering(policy, SteeringConfig(), PushT())
    with pytest.raises(UserError, match="returned actions that are not finite numbers"):
        steering.decode(
            PushT().codec(2), np.zeros((2, 4)), {"agent_pos": np.zeros((2, 2))}, np.array([True, False])
        )


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"noise": "full"}, (100_000,), "full chooses 100,000 of 100,000"),
        ({"rank": 7}, SHAPE, "steering.rank must be at most 6, the noise's steps, got 7"),
        (
            {},
            (12,),
            r"steering.noise must be full for noise of the shape \(12,\), which has no steps, got dct",
        ),
        (
            {"n_action_steps": 7},
            SHAPE,
            "steering.n_action_steps must be at most 6, the actions of a chunk, got 7",
        ),
    ],
)
def test_noise_that_does_not_fit_is_refused(settings, shape, message):
    policy = Wanderer()
    policy.noise_shape = shape
    with pytest.raises(UserError, match=message):
        Steering(policy, SteeringConfig(**settings), PushT())


def test_a_diffusion_policy_of_two_observations_begins_its_chunk_a_step_before_it_plays():
    policy = player_of(tiny_diffusion.make(n_obs_steps=2))
    steering = Steering(policy, SteeringConfig(noise="executed", n_action_steps=2), PushT())
    assert (np.abs(steering.directions).sum(axis=(0, 2)) > 0).nonzero()[0].tolist() == [1, 2]
