"""The visual pendulum: beside Gymnasium's Pendulum-v1, and its pictures beside the geometry of a rod."""

import gymnasium
import numpy as np
import pytest

from envs.interfaces import PixelObservations
from envs.pixels import luminance
from envs.rollout import rollout
from envs.tasks import task_class
from envs.visual_pendulum import ROD_LENGTH, VisualPendulum, draw_rods
from policies import RandomPolicy


def picture(angle: float, size: int = 48) -> np.ndarray:
    drawn = np.empty((1, size, size, 3), np.uint8)
    draw_rods(drawn, np.array([angle]))
    return drawn[0]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_physics_and_starts_are_gymnasiums_to_the_bit(kind):
    """Of five slots, one of which begins anew in the middle of the others' episodes."""
    ours, theirs = VisualPendulum().vector_env(5), [gymnasium.make("Pendulum-v1") for _ in range(5)]
    rng = np.random.default_rng(0)
    seeds = [3, 1, 4, 1_000, 2**31 - 1]
    observations, infos = ours.reset(seed=seeds)
    expected = [env.reset(seed=seed)[0] for env, seed in zip(theirs, seeds, strict=True)]
    np.testing.assert_array_equal(observations["state"], expected)
    assert not infos and observations["state"].dtype == np.float32
    for step in range(1, 201):
        actions = rng.uniform(-2.5, 2.5, (5, 1)).astype(kind)  # beyond the bounds too
        observations, rewards, terminated, truncated, _ = ours.step(actions)
        results = [env.step(action) for env, action in zip(theirs, actions, strict=True)]
        states = np.array([env.unwrapped.state for env in theirs])
        np.testing.assert_array_equal(np.stack([ours.angles, ours.speeds], axis=1), states)
        np.testing.assert_array_equal(observations["state"], [result[0] for result in results])
        np.testing.assert_allclose(rewards, [result[1] for result in results], rtol=0, atol=1e-9)
        assert not terminated.any()
        np.testing.assert_array_equal(truncated, [result[3] for result in results])
        if step == 90:
            seeds[2] = 77
            mask = np.arange(5) == 2
            observations, _ = ours.reset(seed=seeds, options={"reset_mask": mask})
            np.testing.assert_array_equal(observations["state"][2], theirs[2].reset(seed=77)[0])
    assert ours.active.tolist() == [False, False, True, False, False]
    before = ours.angles.copy()
    assert ours.step(np.ones((5, 1)))[1].nonzero()[0].tolist() == [2]  # the others have ended
    np.testing.assert_array_equal(ours.angles != before, ours.active)
    with pytest.raises(ValueError, match="starts where its seed says"):
        ours.reset(seed=seeds, options={"states": np.zeros((5, 2))})


def test_the_stock_environment_plays_the_same_episodes():
    task = VisualPendulum()
    episodes = []
    for stock in (False, True):
        env = task.vector_env(2, image_size=16, stock=stock)
        policy = RandomPolicy(env.single_action_space)
        episodes.append(list(rollout(env, policy, range(3), frame_size=24)))
    for ours, stock in zip(*episodes, strict=True):
        assert ours.seed == stock.seed and len(ours) == 200
        for name in ("state", "pixels"):
            np.testing.assert_array_equal(ours.observations[name], stock.observations[name])
        np.testing.assert_array_equal(ours.frames, stock.frames)
        np.testing.assert_allclose(ours.rewards, stock.rewards, rtol=0, atol=1e-9)


@pytest.mark.parametrize("angle", [0.0, 0.3, 1.5, 2.9, -0.8, -2.2, 40.0])
@pytest.mark.parametrize("size", [16, 48, 84])
def test_the_picture_is_a_rod(angle, size):
    """White where many points within a pixel are on the rod, as it is found on a fine grid."""
    drawn = picture(angle, size)[..., 0] / 255.0
    fine = 8
    points = (np.arange(size * fine) + 0.5) / fine - size / 2  # pixels from the centre
    x, y = np.meshgrid(points, points)
    tip = ROD_LENGTH * size * np.array([-np.sin(angle), -np.cos(angle)])  # counter-clockwise from up
    share = np.clip((x * tip[0] + y * tip[1]) / (tip @ tip), 0, 1)
    on_rod = np.hypot(x - share * tip[0], y - share * tip[1]) <= 0.05 * size
    covered = on_rod.reshape(size, fine, size, fine).mean(axis=(1, 3))
    assert np.abs(drawn - covered).max() < 0.2 and np.abs(drawn - covered).mean() < 0.01


def test_the_picture_in_the_mirror_is_that_of_the_mirrored_angle():
    for angle in np.linspace(0, np.pi, 40):
        np.testing.assert_array_equal(picture(angle)[:, ::-1], picture(-angle))
    np.testing.assert_array_equal(luminance(picture(1.0)), picture(1.0)[..., :1])


def test_the_symmetry_is_one_of_the_physics():
    """Episodes from mirrored starts under mirrored torques: mirrored pictures, equal rewards."""
    symmetry = VisualPendulum(mirror=True).training_env(0, 0.9).symmetry
    assert symmetry is not None and VisualPendulum().training_env(0, 0.9).symmetry is None
    env = VisualPendulum().vector_env(2, image_size=48)
    env.reset(seed=[5, 5])
    env.angles[1], env.speeds[1] = -env.angles[0], -env.speeds[0]
    for action in np.random.default_rng(0).uniform(-2, 2, (60, 1)):
        mirrored = action[symmetry.action_order] * symmetry.action_signs
        observations, rewards, *_ = env.step(np.stack([action, mirrored]))
        assert rewards[0] == pytest.approx(rewards[1], rel=1e-9)
        pixels = observations["pixels"].astype(int)
        assert np.abs(pixels[0, :, ::-1] - pixels[1]).max() <= 1


def test_training_stacks_decisions_and_resumes_exactly():
    """Under action repeat a stack holds the pictures of decisions; a restart changes nothing."""
    task = VisualPendulum(num_envs=2, action_repeat=3)
    env, rng = task.training_env(0, 0.9), np.random.default_rng(0)
    assert env.pixel_shape == (48, 48, 3) and env.stack == 3 and env.observation_size == 0
    observations = env.reset()
    expected = np.concatenate([luminance(env.env.frames(48, np.arange(2)))] * 3, axis=-1)
    for decision in range(75):  # an episode is 66 of three steps and one of two
        assert isinstance(observations, PixelObservations) and observations.numbers.shape == (2, 0)
        np.testing.assert_array_equal(observations.pixels, expected)
        step = env.step(rng.uniform(-1, 1, (2, 1)).astype(np.float32))
        newest = luminance(env.env.frames(48, np.arange(2)))
        expected = np.concatenate([expected[..., 1:], newest], axis=-1)
        observations = step.observations
        np.testing.assert_array_equal(observations.pixels, expected)  # an ended episode's last among them
        assert step.truncated.all() == (decision == 66) and step.is_success is None
        if step.truncated.all():
            observations = env.reset(step.truncated)
            expected = np.concatenate([luminance(env.env.frames(48, np.arange(2)))] * 3, axis=-1)

    restarted = task.training_env(9, 0.9)
    np.testing.assert_array_equal(restarted.load_state_dict(*env.state_dict()).pixels, observations.pixels)
    for _ in range(70):
        actions = rng.uniform(-1, 1, (2, 1)).astype(np.float32)
        ours, theirs = env.step(actions), restarted.step(actions)
        np.testing.assert_array_equal(ours.observations.pixels, theirs.observations.pixels)
        np.testing.assert_array_equal(ours.rewards, theirs.rewards)
        if ours.truncated.any():
            begun, expected = env.reset(ours.truncated), restarted.reset(ours.truncated)
            np.testing.assert_array_equal(begun.pixels, expected.pixels)


def test_the_codec_turns_the_networks_outputs_into_torques():
    codec = VisualPendulum().codec(3)
    raw = {"pixels": np.zeros((3, 48, 48, 3), np.uint8)}
    torques = codec.decode(np.array([[-1.0], [0.0], [0.25]]), raw, np.ones(3, bool))
    np.testing.assert_allclose(torques, [[-2], [0], [0.5]])
    assert task_class("visual_pendulum") is VisualPendulum
