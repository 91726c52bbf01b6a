"""ACT in many slots against LeRobot's policy in one environment at a time, and against `lerobot-eval`."""

import json
from copy import deepcopy

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.envs.configs import PushtEnv
from lerobot.envs.factory import make_env
from lerobot.processor import PolicyProcessorPipeline
from lerobot.scripts.lerobot_eval import eval_policy
from safetensors.torch import load_file, save_file

import evaluate
from act.kinds.act import KIND
from act.opening import load_player, make_player
from act.player import ChunkPlayer, lerobot_observation
from act.steerable import SteerablePlayer
from common.errors import UserError
from envs.interfaces import Steerable
from envs.pendulum import Pendulum
from envs.pusht.vector import PushTVectorEnv, StockPushTVectorEnv
from envs.rollout import rollout
from envs.summary import summarize
from tests.act import tiny_act
from tests.act.tiny import IMAGE, KEYPOINTS, STATE, TASK, observations, player_of, processors_of, save
from tests.act.tiny_act import FEATURES


def make(*args, **kwargs):
    """A policy of random weights and its processors."""
    policy = tiny_act.make(*args, **kwargs)
    return policy, *processors_of(policy)


@pytest.mark.parametrize("coeff", [None, 0.01])
def test_slots_play_as_lerobots_policy_does_alone(coeff):
    n_action_steps = 3 if coeff is None else 1
    parts = make(n_action_steps=n_action_steps, temporal_ensemble_coeff=coeff)
    player = ChunkPlayer(*deepcopy(parts), TASK)
    policy, pre, post = parts
    alone = [deepcopy(policy) for _ in range(5)]
    begins = {0: range(5), 2: [1], 4: [0, 3]}
    for step, raw in enumerate(observations(5, seed) for seed in range(8)):
        player.reset(np.array(begins.get(step, []), int))
        for slot in begins.get(step, []):
            alone[slot].reset()
        targets = player.act(raw)
        for slot in range(5):
            one = {name: values[slot : slot + 1] for name, values in raw.items()}
            theirs = post(
                alone[slot].select_action(
                    pre(lerobot_observation(one, policy.config.input_features, TASK.lerobot_names))
                )
            )
            np.testing.assert_allclose(targets[slot], np.clip(theirs[0], 0.0, 512.0), rtol=0, atol=1e-2)


def test_n_action_steps_can_be_chosen():
    policy, pre, post = make()
    raws = [observations(5, seed) for seed in range(6)]
    for n in (1, 2, 6):
        player = ChunkPlayer(policy, pre, post, TASK, n_action_steps=n)
        assert player.n_action_steps == n
        player.reset(np.arange(5))
        targets = np.stack([player.act(raw) for raw in raws])
        for step in range(6):
            seen = lerobot_observation(
                raws[step - step % n], policy.config.input_features, TASK.lerobot_names
            )
            chunk = policy.predict_action_chunk(pre(seen))
            theirs = post(chunk[:, step % n]).numpy()
            np.testing.assert_allclose(targets[step], np.clip(theirs, 0.0, 512.0), rtol=0, atol=1e-2)


def test_an_episode_is_the_same_whatever_plays_beside_it():
    player = ChunkPlayer(*make(), TASK)
    env = PushTVectorEnv(player.rows_per_pass + 3, max_episode_steps=9)
    together = {e.seed: e for e in rollout(env, player, range(40))}
    for seed in (0, 34, 39):
        (alone,) = rollout(PushTVectorEnv(1, max_episode_steps=9), player, [seed])
        assert np.array_equal(alone.actions, together[seed].actions)


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [(STATE, KEYPOINTS), (STATE, IMAGE)])
def test_success_and_rewards_are_lerobot_evals(tmp_path, inputs):
    save(tiny_act.make(inputs), tmp_path)
    player = load_player(tmp_path, TASK)
    assert player.image_size == (96 if IMAGE in inputs else 0)
    seeds = range(1000, 1003)
    env = StockPushTVectorEnv(3, image_size=player.image_size, max_episode_steps=20)
    ours = summarize(sorted(rollout(env, player, seeds), key=lambda episode: episode.seed))

    policy, pre, post = make(inputs=inputs)
    obs_type = "pixels_agent_pos" if IMAGE in inputs else "environment_state_agent_pos"
    envs = make_env(PushtEnv(obs_type=obs_type, episode_length=20), n_envs=3, use_async_envs=False)
    identity = PolicyProcessorPipeline(steps=[])
    theirs = eval_policy(
        envs["pusht"][0], policy, identity, identity, pre, post, n_episodes=3, start_seed=1000
    )
    for name, value in theirs["aggregated"].items():
        if name in ours:
            assert ours[name] == pytest.approx(value, rel=1e-3, abs=1e-4), name
    assert ours["avg_max_reward"] > 0.0


@pytest.mark.parametrize(
    "changed, inputs, message",
    [
        (
            {"observation.state": PolicyFeature(FeatureType.STATE, (7,))},
            (STATE, KEYPOINTS),
            r"state \(7,\), which",
        ),
        (
            {"observation.side": FEATURES[IMAGE]},
            (STATE, IMAGE, "observation.side"),
            "2 cameras, PushT has 1",
        ),
        (
            {"action": PolicyFeature(FeatureType.ACTION, (3,))},
            (STATE, KEYPOINTS),
            r"actions are of shape \(3,\)",
        ),
    ],
)
def test_a_policy_for_another_robot_is_refused(changed, inputs, message):
    with pytest.raises(UserError, match=message):
        ChunkPlayer(*make(inputs=inputs, available=FEATURES | changed), TASK)


def test_a_policy_for_another_task_is_refused(tmp_path, refused_by):
    save(tiny_act.make(), tmp_path)
    message = r"looks at observation.state \(2,\), which Pendulum-v1 does not show"
    with pytest.raises(UserError, match=message):
        load_player(tmp_path, Pendulum())
    numbers = ["--episodes", "1", "--output", str(tmp_path)]
    refused_by(evaluate.main, ["--policy", str(tmp_path), "--task", "pendulum", *numbers])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim_model": 2**40}, "config.json: dim_model must be at most 131072, got 1099511627776"),
        ({"chunk_size": 10**5}, "config.json: chunk_size must be at most 10000, got 100000"),
        ({"n_action_steps": -(10**9)}, "config.json: n_action_steps must be at least 1, got -1000000000"),
        ({"n_encoder_layers": 10**9}, "config.json: n_encoder_layers must be at most 100, got 1000000000"),
        ({"dim_model": 2**16}, "cannot be opened: model.safetensors has fewer weights than config.json says"),
        ({"n_decoder_layers": 100, "dim_model": 4096}, "model.safetensors has fewer weights than"),
        ({"dim_model": "wide"}, "cannot be opened"),
        ({"input_features": 3}, "cannot be opened"),
        ({"from_the_future": 3}, "cannot be opened: .*from_the_future"),
    ],
)
def test_a_config_unlike_its_weights_is_refused_unbuilt(tmp_path, monkeypatch, changes, message):
    save(tiny_act.make(), tmp_path)
    monkeypatch.setattr("act.kinds.act.ACT.open_policy", lambda *_: pytest.fail("built"))
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(UserError, match=message) as error:
        load_player(tmp_path, TASK)
    assert "\n" not in str(error.value)


def test_the_normalisation_of_former_versions_is_called_by_its_name(tmp_path):
    save(tiny_act.make(), tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file(weights | {"normalize_inputs.buffer_x.mean": torch.zeros(2)}, tmp_path / "model.safetensors")
    for file in tmp_path.glob("policy_*"):
        file.unlink()
    convert = f"python -m lerobot.processor.migrate_policy_normalization --pretrained-path {tmp_path}"
    with pytest.raises(UserError, match=f"of LeRobot 0.1 to 0.3; .* converts it: {convert}$"):
        load_player(tmp_path, TASK)


@pytest.mark.parametrize(
    "changes", [{}, {"use_vae": False}, {"n_decoder_layers": 3, "n_vae_encoder_layers": 2}]
)
def test_a_policy_has_at_least_the_weights_that_are_counted(changes):
    policy = tiny_act.make(**changes)
    counted, built = KIND.least_size(policy.config)[0], sum(p.numel() for p in policy.parameters())
    assert 0.5 * built < counted < built


@pytest.mark.parametrize("name", ["observation.images.top", IMAGE])
def test_the_only_camera_of_a_task_may_have_any_name(name):
    player = ChunkPlayer(*make(inputs=(STATE, name), available=FEATURES | {name: FEATURES[IMAGE]}), TASK)
    assert (player.image_size, player.names[name]) == (96, "pixels")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"n_action_steps": 7}, "n_action_steps must be from 1 to 6, its chunk_size, got 7"),
        (
            {"temporal_ensemble_coeff": -100.0},
            "temporal_ensemble_coeff must be nearer to 0, say 0.01, got -100",
        ),
        ({"n_action_steps": 0}, "n_action_steps must be from 1 to 6, its chunk_size, got 0"),
        (
            {"n_action_steps": 2, "temporal_ensemble_coeff": 0.01},
            "n_action_steps must be 1 with temporal_ensemble_coeff, got 2",
        ),
    ],
)
def test_what_a_chunk_cannot_be_played_as_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        ChunkPlayer(*make(), TASK, **settings)


def test_acts_noise_is_its_latent():
    """0 is LeRobot's policy to the bit; any other one is what its decoder makes of that latent."""
    policy, *processors = make()
    player, plain = make_player(policy, processors, TASK), ChunkPlayer(*make(), TASK)
    assert isinstance(player, SteerablePlayer) and player.noise_shape == (4,)
    raw = observations(5)
    for each in (player, plain):
        each.reset(np.arange(5))
    actions = np.stack([plain.act(raw) for _ in range(3)], axis=1)
    assert np.array_equal(np.stack([player.act(raw) for _ in range(3)], axis=1), actions)
    assert np.array_equal(player.chunk(raw, np.zeros((5, 4)))[:, :3], actions)

    noise = np.random.default_rng(0).standard_normal((5, 4))
    projection = deepcopy(policy.model.encoder_latent_input_proj)
    shifted = tiny_act.make()  # whose latent 0 is this noise
    for slot in range(5):
        with torch.no_grad():
            moved = projection.bias + projection.weight @ torch.from_numpy(noise[slot]).float()
            shifted.model.encoder_latent_input_proj.bias.copy_(moved)
        theirs = ChunkPlayer(shifted, *processors, TASK).act({k: v[slot : slot + 1] for k, v in raw.items()})
        np.testing.assert_allclose(player.chunk(raw, noise)[slot, 0], theirs[0], atol=1e-2)
    assert np.abs(player.chunk(raw, noise)[:, :3] - actions).max() > 1.0


def test_without_a_latent_there_is_nothing_to_sample(tmp_path):
    save(policy := tiny_act.make(use_vae=False), tmp_path)
    assert not isinstance(player_of(policy), Steerable)
    with pytest.raises(
        UserError, match="this ACT makes its chunks of no noise, so there is nothing to sample"
    ):
        load_player(tmp_path, TASK, sampled=True)
