import gymnasium
import numpy as np
import pytest
from imageio.v3 import imread

import envs.pusht.recording  # registers the environments, too
from policies import ASSETS, load_policy
from recording.episodes import RecordingEnv, record_episodes

EXPERT = ASSETS / "sac_expert_fast"


def random_policy():
    return load_policy("random")


def plain(seed, actions):
    """An episode of the stock environment in a plain loop, and what the expert would have done."""
    env = gymnasium.make(
        "gym_pusht/PushT-v0", obs_type="pixels_agent_pos", observation_width=32, observation_height=32
    )
    policy, rows = load_policy(EXPERT), []
    observation, _ = env.reset(seed=seed)
    policy.reset(np.array([0]))
    for action in actions.astype(np.float64):
        agent, block = env.unwrapped.agent, env.unwrapped.block
        state = (*agent.position, *block.position, block.angle, *agent.velocity)
        corners = [block.local_to_world(v) for s in env.unwrapped._block_shapes for v in s.get_vertices()]
        raw = {"agent_pos": state[:2], "agent_vel": state[5:], "block_pose": state[2:5], "keypoints": corners}
        decision = policy.act({name: np.array([value]) for name, value in raw.items()})[0]
        before = observation["pixels"]
        observation, reward, terminated, _, info = env.step(action)
        rows.append((before, state, np.ravel(corners), decision, reward, terminated, info["is_success"]))
    return [np.array(column) for column in zip(*rows, strict=True)]


def test_an_episode_is_that_of_a_plain_loop(block):
    for recorded in block[:4]:
        columns = recorded.columns
        pixels, states, _, decisions, rewards, ends, successes = plain(recorded.seed, columns["action"])
        np.testing.assert_array_equal([imread(png) for png in recorded.pictures], pixels)
        np.testing.assert_array_equal(columns["sim.state"], states)
        np.testing.assert_array_equal(columns["observation.state"], states[:, :2].astype(np.float32))
        np.testing.assert_allclose(columns["action"], decisions, atol=1e-2)  # networks round by batch
        np.testing.assert_allclose(columns["next.reward"], rewards, atol=1e-6)
        np.testing.assert_array_equal(columns["next.done"], ends)
        np.testing.assert_array_equal(columns["next.success"], successes)
        assert recorded.success == successes[-1]


def test_keypoints_are_those_of_a_plain_loop(make_recipe):
    env = RecordingEnv(1, make_recipe(observations="keypoints"))
    (recorded,) = record_episodes(env, load_policy(EXPERT), [7_002])
    _, _, corners, *_ = plain(7_002, recorded.columns["action"])
    stored = recorded.columns["observation.environment_state"]
    np.testing.assert_allclose(stored, corners, atol=1e-4)
    assert not recorded.pictures


def test_noise_is_played_and_the_clean_action_is_the_label(make_recipe):
    recipe = make_recipe(noise=15.0, all=True)
    (episode,) = record_episodes(RecordingEnv(1, recipe), load_policy(EXPERT), [7_001])
    label, played = episode.columns["action"], episode.columns["sim.action"]
    inside = (played > 0) & (played < 512)
    noise = (played - label)[inside]
    assert 10 < noise.std() < 20 and abs(noise.mean()) < 8
    (clean,) = record_episodes(RecordingEnv(1, make_recipe(all=True)), load_policy(EXPERT), [7_001])
    np.testing.assert_array_equal(clean.columns["action"][0], label[0])
    assert "sim.action" not in clean.columns


def test_noise_of_one_axis_leaves_the_others_alone(make_recipe):
    recipe = make_recipe(noise=(15.0, 0.0), all=True)
    (episode,) = record_episodes(RecordingEnv(1, recipe), load_policy(EXPERT), [7_001])
    noise = episode.columns["sim.action"] - episode.columns["action"]
    assert noise[:, 0].std() > 10 and not noise[:, 1].any()


def test_an_episode_depends_on_its_seed_and_not_on_its_neighbours(make_recipe):
    recipe = make_recipe(noise=5.0, all=True, observations="keypoints")
    together = record_episodes(RecordingEnv(3, recipe), random_policy(), [1, 2, 3])
    (alone,) = record_episodes(RecordingEnv(1, recipe), random_policy(), [2])
    for name, values in alone.columns.items():
        np.testing.assert_array_equal(values, together[1].columns[name])
    assert (together[0].columns["action"][:5] != together[1].columns["action"][:5]).all()


def test_a_held_episode_ends_with_the_t_on_its_place(make_recipe):
    recipe = make_recipe(hold=6, observations="keypoints")
    for episode in record_episodes(RecordingEnv(8, recipe), load_policy(EXPERT), range(7_000, 7_008)):
        assert episode.success
        success = episode.columns["next.success"]
        assert success[-7:].all() and not success[:-7][-1:].any()
        assert np.ptp(episode.columns["action"][-6:], axis=0).max() == 0  # at rest
        np.testing.assert_array_equal(np.flatnonzero(episode.columns["next.done"]), [len(episode) - 1])


@pytest.mark.parametrize(("steps", "held"), [(0, True), (-1, False)])
def test_a_success_that_comes_too_late_to_be_held_is_none(steps, held, make_recipe, monkeypatch):
    """Its episode is cut off while the T lies on its place."""
    expert, seeds = load_policy(EXPERT), range(7_000, 7_008)
    plain, whole = (
        {episode.seed: len(episode) for episode in record_episodes(RecordingEnv(8, recipe), expert, seeds)}
        for recipe in (make_recipe(hold=0), make_recipe(hold=6))
    )
    seed = next(seed for seed in seeds if whole[seed] == plain[seed] + 6)  # where the T stays at once
    monkeypatch.setattr(envs.pusht.recording, "MAX_EPISODE_STEPS", plain[seed] + steps)
    (late,) = record_episodes(RecordingEnv(1, make_recipe(hold=6, all=True)), expert, [seed])
    assert late.columns["next.success"][-1] and len(late) == plain[seed] + steps + 6
    assert late.success == held


def test_what_is_not_accepted_has_no_content(make_recipe):
    (episode,) = record_episodes(RecordingEnv(1, make_recipe(min_progress=0.5)), random_policy(), [0])
    assert not episode.success and not episode.columns and not episode.pictures
