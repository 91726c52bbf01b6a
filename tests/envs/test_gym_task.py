"""Gymnasium environments as tasks: beside a plain loop, and learnt."""

from typing import ClassVar

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import evaluate
import train_sac
from common.errors import UserError
from common.untrusted import load_json, load_tensors
from envs.gym_vector import BoxCodec, GymVectorEnv
from envs.pendulum import Pendulum
from envs.rollout import rollout
from envs.summary import SUCCESS_RATE
from policies import RandomPolicy, load_policy

SEEDS = [3, 1, 4, 1_000]


class Pusher:
    """Torque by the time since the episode began, another in each slot's episode."""

    n_action_steps, image_size, history = 1, 0, 1

    def __init__(self, slots: int) -> None:
        self.time = np.full(slots, -1000)

    def seed_slots(self, seeds) -> None:
        pass

    def reset(self, slots: np.ndarray) -> None:
        self.time[slots] = 0

    def act(self, observations: dict[str, np.ndarray]) -> np.ndarray:
        self.time += 1
        return 2 * np.sin(0.1 * self.time[:, None])


def test_episodes_equal_a_plain_loop():
    """Of two slots, whose episodes end together, and of three."""
    for slots in (2, 3):
        episodes = {e.seed: e for e in rollout(GymVectorEnv("Pendulum-v1", slots), Pusher(slots), SEEDS)}
        env = gymnasium.make("Pendulum-v1")
        for seed in SEEDS:
            observation, _ = env.reset(seed=seed)
            observations, rewards, ended, step = [observation], [], False, 0
            while not ended:
                step += 1
                observation, reward, terminated, truncated, _ = env.step(2 * np.sin(0.1 * np.array([step])))
                ended = terminated or truncated
                observations.append(observation)
                rewards.append(reward)
            np.testing.assert_array_equal(episodes[seed].observations["state"], observations)
            np.testing.assert_allclose(episodes[seed].rewards, rewards, rtol=0, atol=1e-12)
            assert episodes[seed].success is None and len(episodes[seed]) == 200


def test_success_is_what_the_environment_says_or_the_termination():
    env = GymVectorEnv("MountainCarContinuous-v0", 1, success="termination")
    observations, _ = env.reset(seed=[0])
    successes = []
    while env.active[0]:
        push = np.where(observations["state"][:, 1:] >= 0, 1.0, -1.0)  # along the velocity: up the hill
        observations, _, terminated, truncated, infos = env.step(push)
        successes.append(bool(infos["is_success"][0]))
    assert terminated[0] and not truncated[0]
    assert successes == [False] * (len(successes) - 1) + [True]


def test_the_codec_spans_both_boxes():
    codec = Pendulum().codec(2)
    raw = {"state": np.array([[1.0, -1.0, 8.0], [0.5, 0.0, -4.0]], np.float32)}
    np.testing.assert_allclose(codec.encode(raw), [[1, -1, 1], [0.5, 0, -0.5]])
    actions = codec.decode(np.array([[-1.0], [0.25]]), raw, np.ones(2, bool))
    np.testing.assert_allclose(actions, [[-2.0], [0.5]])


def test_numbers_without_bounds_stay_and_actions_have_bounds():
    half = spaces.Box(np.array([[-np.inf, -2.0]], np.float32), np.array([[np.inf, 6.0]], np.float32))
    codec = BoxCodec(half, spaces.Box(-1.0, 1.0, (1, 3)))
    raw = {"state": np.array([[[7.0, 4.0]], [[-9.0, 2.0]]], np.float32)}
    np.testing.assert_allclose(codec.encode(raw), [[7.0, 0.5], [-9.0, 0.0]])
    assert (codec.observation_size, codec.action_size) == (2, 3)
    assert codec.decode(np.zeros((2, 3)), raw, np.ones(2, bool)).shape == (2, 1, 3)
    one_value = spaces.Box(np.zeros(2, np.float32), np.array([0, 4], np.float32))
    flat = BoxCodec(one_value, spaces.Box(-1.0, 1.0, (1,)))
    np.testing.assert_allclose(flat.encode({"state": np.array([[0.0, 4.0]])}), [[0.0, 1.0]])


@pytest.mark.parametrize(
    ("env_id", "said"),
    [
        ("CartPole-v1", "CartPole-v1: its observations and actions must be boxes"),
        ("Pendulums-v1", "Pendulums-v1: Gymnasium cannot make it"),
        ("InvertedPendulum-v5", "InvertedPendulum-v5: Gymnasium cannot make it: .*(?i:mujoco)"),
    ],
)
def test_other_environments_are_refused(env_id, said):
    with pytest.raises(UserError, match=said):
        GymVectorEnv(env_id, 1)


def test_an_unknown_success_is_refused():
    with pytest.raises(UserError, match="Pendulum-v1: success must be none or termination or info, got"):
        GymVectorEnv("Pendulum-v1", 1, success="terminaton")  # pyright: ignore[reportArgumentType]


class Reporter(gymnasium.Env):
    """Ends after three steps; says `is_success` at the end of every other episode, and only there."""

    metadata: ClassVar = {"render_modes": ["rgb_array"]}
    observation_space, action_space = spaces.Box(-1, 1, (1,)), spaces.Box(-1, 1, (1,))

    def __init__(self, render_mode=None) -> None:
        self.render_mode = render_mode

    def reset(self, seed=None, options=None):
        self.step_count, self.succeeds = 0, seed % 2 == 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.step_count += 1
        ended = self.step_count == 3
        info = {"is_success": True} if ended and self.succeeds else {}
        return np.zeros(1, np.float32), 1.0, ended, False, info

    def render(self):
        return np.full((20, 40, 3), 200, np.uint8)


def test_actions_without_bounds_are_refused(monkeypatch):
    monkeypatch.setattr(Reporter, "action_space", spaces.Box(-np.inf, np.inf, (1,)))
    gymnasium.register("Unbounded-v0", Reporter)
    with pytest.raises(UserError, match="Unbounded-v0: its actions must have bounds"):
        GymVectorEnv("Unbounded-v0", 1)


def test_a_success_rate_of_nothing_is_refused():
    class Task(Pendulum):
        metrics = (SUCCESS_RATE,)

    with pytest.raises(ValueError, match="success must be termination or info"):
        Task().validate()


def test_success_that_is_reported_now_and_then(monkeypatch):
    gymnasium.register("Reporter-v0", Reporter)
    env = GymVectorEnv("Reporter-v0", 2, success="info")
    episodes = list(rollout(env, Pusher(2), range(6), frame_size=32))
    assert {episode.seed: episode.success for episode in episodes} == {i: i % 2 == 0 for i in range(6)}
    drawn = episodes[0].frames[0]
    assert drawn.shape == (32, 32, 3) and (drawn[8:24] == 200).all() and (drawn[:8] == 255).all()

    class Task(Pendulum):
        name, success, action_repeat = "Reporter-v0", "info", 4

    training = Task(num_envs=2, action_repeat=4).training_env(0, 0.9)
    training.reset()
    step = training.step(np.zeros((2, 1)))
    np.testing.assert_array_equal(step.is_success, training.seeds % 2 == 0)
    assert step.durations.tolist() == [3, 3] and step.terminated.all()
    with pytest.raises(ValueError, match="starts where its seed says"):
        env.reset(seed=[0, 1], options={"states": np.zeros((2, 1))})


class Car(Pendulum):
    name = "MountainCarContinuous-v0"


@pytest.mark.parametrize("task", [Pendulum(num_envs=3, action_repeat=3), Car(num_envs=3)])
def test_a_restart_in_the_middle_of_episodes_changes_nothing(task):
    """Also where one of them has just begun and has no action yet."""
    env, restarted = task.training_env(0, 0.9), task.training_env(9, 0.9)
    rng = np.random.default_rng(0)
    for _ in range(2):
        env.reset(), restarted.reset()
    for _ in range(90):
        step = env.step(rng.uniform(-1, 1, (3, 1)).astype(np.float32))
        if (ended := step.terminated | step.truncated).any():
            env.reset(ended)
    env.reset(np.array([False, True, False]))
    restarted.load_state_dict(*env.state_dict())
    for _ in range(80):
        actions = rng.uniform(-1, 1, (3, 1)).astype(np.float32)
        ours, theirs = env.step(actions), restarted.step(actions)
        for name, values, expected in zip(ours._fields, theirs, ours, strict=True):
            np.testing.assert_array_equal(values, expected, err_msg=name)
        if (ended := ours.terminated | ours.truncated).any():
            np.testing.assert_array_equal(restarted.reset(ended), env.reset(ended))


def test_rewards_within_a_decision_are_discounted_step_by_step():
    """Beside single environments; the last decision of an episode is shorter."""
    env = Pendulum(num_envs=1, action_repeat=7, reward_scale=0.5).training_env(0, gamma=0.9)
    env.reset()
    single = gymnasium.make("Pendulum-v1")
    single.reset(seed=int(env.seeds[0]))
    for decision in range(29):  # 28 decisions of 7 steps, and one of 4
        step = env.step(np.array([[0.3]]))
        rewards = [single.step(np.array([0.6]))[1] for _ in range(7 if decision < 28 else 4)]
        expected = sum(0.5 * 0.9**t * reward for t, reward in enumerate(rewards))
        assert step.rewards[0] == pytest.approx(expected, rel=1e-6)
        assert step.durations[0] == len(rewards)
    assert step.truncated[0] and not step.terminated[0] and step.is_success is None


@pytest.mark.slow
def test_its_configuration_solves_pendulum(tmp_path, capsys, monkeypatch):
    """In 0.4 of its steps; resumed in the middle; and nothing that it prints is of another task."""
    monkeypatch.chdir(tmp_path)
    flags = ["--config", "configs/sac_pendulum.yaml", "--threads", "1"]
    flags += "--training.eval-every 2000 --training.video-every 6000".split()
    assert train_sac.main([*flags, "--total-env-steps", "4000"])
    assert train_sac.main([*flags, "--total-env-steps", "6000"])
    evaluate.main("--episodes 1 --record --videos 1".split())
    evaluate.main("--episodes 20".split())
    printed = capsys.readouterr().out
    assert "resuming from" in printed and "20 of Pendulum-v1" in printed
    assert not [word for word in ("PushT", "success", "coverage", "px", "T ") if word in printed]
    run = tmp_path / "logs/sac_pendulum_seed1"
    numbers = load_json(run / "evaluation_best.json")
    # Rounding decides whether it is -150 or -205 by then; a random policy has -1,200.
    assert numbers["avg_sum_reward"] >= -300 and "success_rate" not in numbers
    assert [path.name for path in (run / "videos").glob("*.mp4")] == ["best_100000_episode.mp4"]
    assert (run / "plots/best_returns.png").exists()
    policy = load_policy(run)
    assert policy.task == Pendulum()
    assert load_tensors(run / "checkpoints/last/training_state/tensors.safetensors")

    again = list(rollout(GymVectorEnv("Pendulum-v1", 4), policy, range(100_000, 100_020)))
    assert np.mean([episode.rewards.sum() for episode in again]) == pytest.approx(numbers["avg_sum_reward"])
    space = GymVectorEnv("Pendulum-v1", 1).single_action_space
    lazy = list(rollout(GymVectorEnv("Pendulum-v1", 4), RandomPolicy(space), range(100_000, 100_020)))
    assert np.mean([episode.rewards.sum() for episode in lazy]) < -600
