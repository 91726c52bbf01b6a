"""Actions of a task as those of a network: the inverse of what codecs decode."""

import numpy as np
import pytest

from common.errors import UserError
from envs.car_racing.task import CarRacing
from envs.demonstrations import Conversion, DemonstratedEpisode
from envs.pixels import PixelConfig
from envs.pusht.task import PushT
from envs.visual_pendulum import VisualPendulum
from sac.agent import AgentConfig
from sac.demonstrations import OfflineConfig, OfflineData
from tests.envs.test_aliasing import TASK as STEERED
from tests.envs.test_aliasing import diffusion_player, make_env
from tests.envs.wanderer import Wanderer

BOARD = {"action_frame": "board", "mirror": False}
TASKS = {
    "relative": PushT(),
    "delta": PushT(action_mode="delta", action_bound=30.0),
    "absolute": PushT(action_mode="absolute", **BOARD),
    "pendulum": VisualPendulum(pixels=PixelConfig(size=8)),
    "pedals": CarRacing(pixels=PixelConfig(size=8), gas=0.5, steering=0.7),
    "three axes": CarRacing(pixels=PixelConfig(size=8), axes=3, brake=0.5),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_encoded_actions_are_those_that_were_decoded(task):
    rng, everywhere = np.random.default_rng(0), np.ones(20, bool)
    raw = {
        "agent_pos": rng.uniform(200, 300, (20, 2)),
        "block_pose": rng.uniform(-3, 3, (20, 3)),
        "state": np.zeros((20, 3)),
        "pixels": np.zeros((20, 8, 8, 3), np.uint8),
    }
    codec = task.codec(20)
    codec.reset(everywhere, raw)
    for _ in range(2):  # from what is remembered of the first, too
        actions = rng.uniform(-1, 1, (20, codec.action_size))
        again = task.codec(20)
        again.load_state_dict(codec.state_dict())
        decoded = codec.decode(actions, raw, everywhere)
        np.testing.assert_allclose(again.encode_actions(decoded, raw), actions, atol=1e-6)


def test_an_axis_of_no_range_is_encoded_as_nothing():
    for axes in (2, 3):
        codec = CarRacing(pixels=PixelConfig(size=8), axes=axes, steering=0.0).codec(1)
        actions = codec.encode_actions(np.array([[0.0, 1.0, 0.0]]), {})
        assert actions[0, 0] == 0 and actions[0, 1] == 1


def record(env, decisions):
    """Play decisions of slot 0; returns its episode as a recorder has it, and what the replay would hold."""
    frames, inner = [], env.env.env
    step = inner.step

    def recorded_step(actions):
        before = {name: values[0].copy() for name, values in env.env.raw.items()}
        result = step(actions)
        frames.append((before, actions[0].copy(), result[1][0]))
        return result

    inner.step = recorded_step
    seen, rng, held = env.reset(), np.random.default_rng(0), []
    for _ in range(decisions):
        played = env.step(rng.uniform(-1, 1, (3, env.action_size)))
        held.append((seen[0], played.executed[0], played.rewards[0], played.observations[0]))
        seen = played.observations
    before, actions, rewards = zip(*frames, strict=True)
    observations = {name: np.stack([frame[name] for frame in before]) for name in before[0]}
    never = np.zeros(len(actions), bool)
    return DemonstratedEpisode(observations, np.stack(actions), np.array(rewards), never, never.copy()), held


@pytest.mark.parametrize("make_player", [Wanderer, diffusion_player])
def test_recorded_chunks_are_those_that_a_steered_policy_executed(make_player):
    env = make_env(make_player())
    env.env.env.max_episode_steps = 100
    steps = env.steering.n_action_steps
    episode, held = record(env, decisions=3)
    made = list(Conversion(STEERED.codec(1), env.env, env.aliasing)([episode]))
    assert len(made) == len(episode.actions) - 1  # each frame whose next one is known
    for ours, (seen, executed, reward, after) in zip(made, held[:2], strict=False):
        np.testing.assert_allclose(ours.observations[0], seen, atol=2e-3)
        np.testing.assert_allclose(ours.actions[0], executed, atol=1e-4)
        np.testing.assert_allclose(ours.step.rewards, reward, rtol=1e-6)
        np.testing.assert_allclose(ours.step.observations[0], after, atol=2e-3)
        assert ours.step.durations == steps and not ours.step.truncated
    ends = [ours for ours in made if ours.step.truncated]
    assert len(ends) == steps and not any(ours.step.terminated for ours in made)
    assert sorted(int(ours.step.durations[0]) for ours in ends) == list(range(1, steps + 1))


def test_a_chunk_beyond_the_end_repeats_the_last_action_and_ends_there():
    env = make_env(Wanderer())
    env.env.env.max_episode_steps = 100
    episode, _ = record(env, decisions=2)
    episode.terminated[5] = episode.is_success[5] = True
    made = list(Conversion(STEERED.codec(1), env.env, env.aliasing)([episode]))
    order = [0, 4, 1, 5, 2, 3]  # of the frames: every fourth from 0, from 1, from 2 and from 3 on
    assert [int(ours.step.durations[0]) for ours in made] == [min(4, 6 - frame) for frame in order]
    for frame, ours in zip(order, made, strict=True):
        middle = episode.observations["agent_pos"][frame].astype(np.float32)
        chunk = [episode.actions[min(frame + t, 5)] for t in range(4)]
        expected = ((np.stack(chunk) - middle) / env.aliasing.spread).ravel()
        np.testing.assert_allclose(ours.actions[0], expected, rtol=1e-5)
        assert ours.step.terminated[0] == ours.step.is_success[0] == (frame + 4 >= 6)


def test_an_episode_shorter_than_a_chunk_is_as_many_decisions_as_it_has_frames():
    env = make_env(Wanderer())
    env.env.env.max_episode_steps = 100
    episode, _ = record(env, decisions=1)
    episode.terminated[1] = True
    made = list(Conversion(STEERED.codec(1), env.env, env.aliasing)([episode]))
    assert [int(ours.step.durations[0]) for ours in made] == [2, 1]
    assert all(ours.step.terminated[0] for ours in made)


def test_a_codec_without_an_inverse_is_refused():
    class OneWay:
        """The codec of somebody's own task."""

    class NoDemonstrations:
        """Not looked at."""

    class Task(PushT):
        def codec(self, num_envs):
            return OneWay()

    with pytest.raises(UserError, match="its codec has no encode_actions"):
        env = PushT(num_envs=1).training_env(0, 0.9)
        OfflineData(OfflineConfig("data"), NoDemonstrations(), Task(), env, AgentConfig(), "cpu")
