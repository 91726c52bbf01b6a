"""The rollout loop against a plain loop over one stock environment."""

import gym_pusht  # noqa: F401  registers gym_pusht/PushT-v0
import gymnasium
import numpy as np
import pytest

from envs.interfaces import Episode
from envs.pusht.vector import PushTVectorEnv, StockPushTVectorEnv
from envs.rollout import replay, replay_episode, rollout
from recording.episodes import RecordingEnv, record_episodes
from recording.schema import Recipe

SEEDS = [11, 5, 8, 100_000, 7]
LIMIT = 40  # environment steps per episode
EASY = 0.08  # coverage that counts as success here, so that blind pushing succeeds now and then


class Circler:
    """Goes round and through the T, by the time since the episode began: a missed reset would upset it."""

    def __init__(self, slots: int) -> None:
        self.time = np.full(slots, -1000)

    def reset(self, slots: np.ndarray) -> None:
        self.time[slots] = 0

    def act(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        return np.array([self.target(pose, i) for i, pose in enumerate(observations["block_pose"])])

    def target(self, block_pose: np.ndarray, slot: int) -> np.ndarray:
        self.time[slot] += 1
        phase = 0.4 * self.time[slot]
        return np.clip(block_pose[:2] + 80 * np.array([np.cos(phase), np.sin(2 * phase)]), 0, 512)


def easy_env(
    slots: int, env_class: type[PushTVectorEnv] = PushTVectorEnv, image_size: int = 0
) -> PushTVectorEnv:
    env = env_class(slots, image_size, max_episode_steps=LIMIT)
    for single in env.envs:
        single.success_threshold = EASY
    return env


def play(slots: int, **kwargs) -> dict[int, Episode]:
    episodes = list(rollout(easy_env(slots, **kwargs), Circler(slots), SEEDS, frame_size=96))
    assert sorted(episode.seed for episode in episodes) == sorted(SEEDS)
    return {episode.seed: episode for episode in episodes}


def stock_episode(seed: int) -> tuple[list, list, list, list, bool]:
    """Rows of states, actions, rewards and coverage, and whether the episode was a success."""
    env = gymnasium.make("gym_pusht/PushT-v0", max_episode_steps=LIMIT)
    env.unwrapped.success_threshold = EASY
    policy = Circler(slots=1)
    policy.reset(np.array([0]))
    _, info = env.reset(seed=seed)
    states, actions, rewards = [np.append(info["pos_agent"], info["block_pose"])], [], []
    coverage = [env.unwrapped._get_coverage()]
    ended = False
    while not ended:
        actions.append(policy.target(info["block_pose"], slot=0))
        _, reward, terminated, truncated, info = env.step(actions[-1])
        ended = terminated or truncated
        states.append(np.append(info["pos_agent"], info["block_pose"]))
        rewards.append(reward)
        coverage.append(info["coverage"])
    return states, actions, rewards, coverage, info["is_success"]


def assert_same_episode(one: Episode, other: Episode) -> None:
    assert one.seed == other.seed and one.success == other.success
    for name in ("actions", "rewards", "progress", "frames"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.observations.keys() == other.observations.keys()
    for name in one.observations:
        np.testing.assert_array_equal(one.observations[name], other.observations[name], err_msg=name)


def test_an_episode_is_the_same_among_any_number_of_slots():
    """More slots than seeds among them."""
    alone = play(slots=1)
    for slots in (3, 7):
        together = play(slots=slots)
        for seed in SEEDS:
            assert_same_episode(alone[seed], together[seed])


@pytest.mark.slow
@pytest.mark.parametrize("env_class", [PushTVectorEnv, StockPushTVectorEnv])
def test_episodes_equal_a_plain_loop_over_stock(env_class):
    episodes = play(slots=3, env_class=env_class, image_size=16)
    for seed, episode in episodes.items():
        states, actions, rewards, coverage, success = stock_episode(seed)
        observations = episode.observations
        ours = np.concatenate([observations["agent_pos"], observations["block_pose"]], axis=1)
        np.testing.assert_array_equal(ours, states)
        np.testing.assert_array_equal(episode.actions, actions)
        np.testing.assert_allclose(episode.rewards, rewards, rtol=0, atol=1e-12)
        np.testing.assert_allclose(episode.progress, coverage, rtol=0, atol=1e-12)
        assert episode.success is success
    outcomes = [episode.success for episode in episodes.values()]
    assert any(outcomes) and not all(outcomes)


def test_shapes_of_an_episode():
    for episode in play(slots=2, image_size=16).values():
        length = len(episode)
        assert length == LIMIT or (episode.success and length < LIMIT)
        assert episode.actions.shape == (length, 2) and episode.rewards.shape == (length,)
        assert episode.progress.shape == (length + 1,)
        assert episode.frames.shape == (length + 1, 96, 96, 3)
        rows = {
            "agent_pos": (2,),
            "agent_vel": (2,),
            "block_pose": (3,),
            "keypoints": (8, 2),
            "pixels": (16, 16, 3),
        }
        assert {name: values.shape for name, values in episode.observations.items()} == {
            name: (length + 1, *shape) for name, shape in rows.items()
        }


def test_success_is_the_last_step_and_only_that():
    for episode in play(slots=4).values():
        succeeded = episode.progress[1:] > EASY
        assert not succeeded[:-1].any()
        assert succeeded[-1] == episode.success


def test_an_env_can_be_used_again():
    env, policy = easy_env(slots=2), Circler(slots=2)
    unfinished = rollout(env, policy, SEEDS)
    next(unfinished)
    again = {episode.seed: episode for episode in rollout(env, policy, SEEDS, frame_size=96)}
    first = play(slots=1)
    for seed in SEEDS:
        assert_same_episode(again[seed], first[seed])


def test_no_frames_unless_asked_for():
    (episode,) = rollout(easy_env(slots=1), Circler(slots=1), SEEDS[:1])
    assert episode.frames is None


def test_recorded_actions_make_the_same_episode_again():
    """Beyond its success too, where `rollout` ends."""
    for seed, episode in play(slots=3).items():
        again = replay_episode(easy_env(slots=1), episode, frame_size=96)
        assert_same_episode(again, episode)
        rows = list(replay(easy_env(slots=1), episode.actions, seed))
        for name, values in episode.observations.items():
            np.testing.assert_array_equal([observations[name][0] for observations, *_ in rows], values)
        np.testing.assert_array_equal([reward for _, reward, _ in rows][1:], episode.rewards)
        np.testing.assert_array_equal([infos["progress"][0] for *_, infos in rows], episode.progress)
    longer = np.concatenate([episode.actions, episode.actions])
    assert len(list(replay(easy_env(slots=1), longer, seed))) == 2 * len(episode) + 1


class Looker(Circler):
    """Circles for three steps per decision, and notes the last two pictures whenever it decides."""

    n_action_steps, history, image_size = 3, 2, 32

    def __init__(self) -> None:
        super().__init__(slots=1)
        self.latest, self.seen = [], []

    def seed_slots(self, seeds) -> None:
        pass

    def reset(self, slots: np.ndarray) -> None:
        super().reset(slots)
        self.steps = 0

    def act(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        self.latest.append(observations["pixels"][0])
        if self.steps % self.n_action_steps == 0:
            self.seen.append(np.stack(self.latest[-self.history :]))
        self.steps += 1
        return super().act(observations)


def test_a_policy_that_decides_on_several_pictures_sees_them_as_they_were():
    """Where pictures are drawn at every step, only when they are asked for, and where it is recorded."""
    seen = []
    for keep_pixels in (True, False):
        policy = Looker()
        list(rollout(easy_env(1, image_size=32), policy, [11], keep_pixels=keep_pixels))
        seen.append(policy.seen)
    recording = RecordingEnv(1, Recipe(policy="looker", fingerprint="", all=True, hold=0), image_size=32)
    recording.env.max_episode_steps = LIMIT
    recording.env.envs[0].success_threshold = EASY
    policy = Looker()
    record_episodes(recording, policy, [11])
    assert len(seen[0]) > 5
    for drawn, asked_for, recorded in zip(*seen, policy.seen, strict=True):
        np.testing.assert_array_equal(asked_for, drawn)
        np.testing.assert_array_equal(recorded, drawn)
    assert any((pair[0] != pair[1]).any() for pair in seen[0][1:])
