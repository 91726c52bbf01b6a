"""The diffusion policy against LeRobot's own and DDIM's equation written out; resume, players, steering."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from lerobot.configs.types import FeatureType, PolicyFeature

import train_act
from act.kinds.diffusion import PolicyConfig
from act.opening import load_player
from act.optimizer import OptimizerConfig
from common.config import from_dict, load_yaml, to_dict
from common.errors import UserError
from common.untrusted import load_json
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from envs.steerability import visited
from tests.act.checks import (
    assert_losses_add_up,
    assert_noise_0_plays_as_unsteered,
    assert_plays_the_same_opened_again,
    assert_resumes_exactly_and_plays,
    assert_slots_play_as_lerobots_alone,
)
from tests.act.tiny import (
    IMAGE,
    KEYPOINTS,
    STATE,
    TASK,
    features,
    make_batch,
    num_valid,
    observations,
    player_of,
    save,
)
from tests.act.tiny_diffusion import HORIZON, KIND, SETTINGS, SIDE, make

CAMERA = {"observation.image2": PolicyFeature(FeatureType.VISUAL, (3, SIDE, SIDE))}


def samples(n_obs_steps=2, size=6):
    """Normalised, with several observations each and longer chunks than `make_batch`'s."""
    batch, generator = make_batch(size), torch.Generator().manual_seed(1)
    seen = {name: batch[name][:, None] * torch.ones(n_obs_steps, 1) for name in (STATE, KEYPOINTS)}
    seen[IMAGE] = torch.rand(size, n_obs_steps, 3, SIDE, SIDE, generator=generator)
    lengths = torch.randint(1, HORIZON, (size, 1), generator=generator)
    actions = torch.rand(size, HORIZON, 2, generator=generator) * 2 - 1
    return seen | {"action": actions, "action_is_pad": torch.arange(HORIZON) >= lengths}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("inputs", [(STATE, KEYPOINTS), (STATE, IMAGE)])
def test_loss_is_lerobots(inputs, masked):
    policy, batch = make(inputs=inputs, do_mask_loss_for_padding=masked), samples()
    torch.manual_seed(3)
    theirs, _ = policy.forward(batch)
    torch.manual_seed(3)
    (loss,) = KIND.make_loss(policy)(batch, num_valid(batch), 6)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    if IMAGE in inputs:
        torch.manual_seed(3)
        (of_another,) = KIND.make_loss(policy)(batch | {IMAGE: batch[IMAGE].flip(-1)}, num_valid(batch), 6)
        assert of_another.item() != pytest.approx(loss.item(), rel=1e-6), "it sees the picture"


@pytest.mark.parametrize("masked", [False, True])
def test_losses_of_pieces_add_up(masked, monkeypatch):
    policy, whole = make(do_mask_loss_for_padding=masked), samples()
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.full(shape, 0.3))
    monkeypatch.setattr(torch, "randint", lambda low, high, size, **_: torch.full(size, 4))
    assert_losses_add_up(policy, whole)


@pytest.mark.parametrize("prediction", ["sample", "epsilon"])
def test_a_chunk_is_the_end_of_ddims_steps(prediction):
    """Song et al. 2021, equation 12 without its noise; the chunk that is predicted is clipped."""
    policy, batch, noise = make(prediction_type=prediction), samples(), torch.randn(6, HORIZON, 2)
    scheduler, seen = policy.diffusion.noise_scheduler, torch.cat([samples()[STATE], samples()[KEYPOINTS]], 2)
    kept = scheduler.alphas_cumprod
    x, times = noise, [6, 3, 0]
    with torch.no_grad():
        for time, following in zip(times, [*times[1:], None], strict=True):
            predicted = policy.diffusion.unet(x, torch.full((6,), time), global_cond=seen.flatten(1))
            clean, noisy = kept[time].sqrt(), (1 - kept[time]).sqrt()
            chunk = predicted if prediction == "sample" else (x - noisy * predicted) / clean
            removed = (x - clean * chunk) / noisy
            left = torch.tensor(1.0) if following is None else kept[following]
            x = left.sqrt() * chunk.clamp(-5, 5) + (1 - left).sqrt() * removed
        chunks = KIND.chunks(policy, batch, noise)
        theirs = policy.predict_action_chunk(batch, noise)
    torch.testing.assert_close(chunks, x[:, 1:], rtol=1e-4, atol=1e-5)
    assert torch.equal(chunks[:, :3], theirs), "LeRobot's, which leaves out what is not played"


def test_slots_play_as_lerobots_policy_does_alone():
    assert_slots_play_as_lerobots_alone(make())


def test_saved_and_opened_again_it_plays_the_same(tmp_path):
    assert_plays_the_same_opened_again(make(n_obs_steps=1), tmp_path)


def test_a_policy_of_lerobots_for_ddpm_is_played_with_ddim(tmp_path):
    policy = make(n_obs_steps=1)
    policy.config.noise_scheduler_type = "DDPM"
    save(policy, tmp_path)
    raw, noise = observations(), np.random.default_rng(1).standard_normal((3, HORIZON, 2))
    opened = load_player(tmp_path, TASK)
    assert np.array_equal(opened.chunk(raw, noise), player_of(make(n_obs_steps=1)).chunk(raw, noise))


@pytest.mark.parametrize("name", ["horizon", "clip_sample", "crop_shape", "normalization_mapping"])
def test_a_configuration_that_leaves_out_how_it_is_played_is_refused(tmp_path, name):
    file = save(make(n_obs_steps=1), tmp_path) / "config.json"
    file.write_text(json.dumps({key: value for key, value in load_json(file).items() if key != name}))
    with pytest.raises(UserError, match=f"{name} missing, without which the policy cannot be opened"):
        load_player(tmp_path, TASK)


def test_pictures_are_played_as_lerobots_policy_does_alone():
    """With what a foreign policy may have: crops, one encoder for all cameras, batch norms."""
    config = make(inputs=(STATE, IMAGE)).config
    config.crop_shape, config.use_separate_rgb_encoder_per_camera = (36, 36), False
    config.use_group_norm = False
    assert_slots_play_as_lerobots_alone(KIND.open_policy(config).eval(), SIDE)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (features(side=32), "a diffusion policy is blind to observation.image, 32 x 32 pixels: it needs 33"),
        (
            features(side=64) | CAMERA,
            "policy.inputs: `observation.image2` does not match `observation.image`",
        ),
    ],
)
def test_pictures_that_it_cannot_look_at_are_refused(more, message):
    cameras = tuple(name for name in more if "image" in name)
    with pytest.raises(UserError, match=message):
        KIND.make_config(replace(SETTINGS, inputs=(STATE, *cameras)), more, OptimizerConfig(), "cpu")


@pytest.mark.slow
@pytest.mark.parametrize("n_obs_steps", [1, 2, 3])
def test_steered_by_noise_0_it_plays_as_it_does_alone(n_obs_steps):
    assert_noise_0_plays_as_unsteered(make(n_obs_steps=n_obs_steps))


def test_states_that_its_authority_is_measured_on_are_those_where_it_decides():
    policy, env = player_of(make(n_obs_steps=3)), PushTVectorEnv(2, max_episode_steps=11)
    seen = visited(env, policy, range(3))["agent_pos"]
    expected = []
    for episode in sorted(rollout(env, policy, range(3)), key=lambda episode: episode.seed):
        places = episode.observations["agent_pos"]
        expected += [[places[max(t - 2, 0)], places[max(t - 1, 0)], places[t]] for t in range(0, 11, 3)]
    assert sorted(seen.tolist()) == sorted(np.array(expected).tolist())


@pytest.mark.parametrize(
    "changes",
    [
        {"down_dims": (64, 128)},
        {"down_dims": (32,), "n_obs_steps": 4},
        {"diffusion_step_embed_dim": 1024},
        {"use_film_scale_modulation": False},
    ],
)
def test_it_has_at_least_the_weights_that_are_counted(changes):
    policy = make(**changes)
    counted, built = KIND.least_size(policy.config)[0], sum(p.numel() for p in policy.parameters())
    assert 0.5 * built < counted < built


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_action_steps": 8}, "n_action_steps must be at most 7, horizon - n_obs_steps"),
        ({"down_dims": (8, 18)}, r"down_dims must be multiples of n_groups, 4, got \(8, 18\)"),
        ({"down_dims": ()}, "down_dims must be multiples of n_groups"),
        ({"down_dims": (8, 8, 8, 8)}, "horizon must be a multiple of 16, halved by each of down_dims, got 8"),
        ({"kernel_size": 4}, "kernel_size must be odd, got 4"),
        ({"diffusion_step_embed_dim": 5}, "diffusion_step_embed_dim must be even, got 5"),
        ({"n_obs_steps": 9}, "n_obs_steps must be at most horizon, 8, got 9"),
        ({"num_inference_steps": 11}, "num_inference_steps must be at most num_train_timesteps, 10"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        from_dict(PolicyConfig, to_dict(replace(SETTINGS, **changes)))


TINY = "--policy.type diffusion --policy.down-dims 8 16 --policy.n-groups 4 --policy.horizon 8"
TINY += " --policy.diffusion-step-embed-dim 8 --policy.num-train-timesteps 10 --policy.num-inference-steps 2"
TINY += " --policy.n-action-steps 3 --dataset.mirror"


@pytest.mark.slow
def test_a_run_from_before_prediction_type_predicts_the_noise(short_training, tmp_path, refused_by):
    """To predict the chunk with its weights would be silently wrong."""
    command_line, noise = [*short_training, *TINY.split()], ["--policy.prediction-type", "epsilon"]
    assert train_act.main([*command_line, *noise, "--steps", "1"])
    file = tmp_path / "run" / "config.yaml"
    config = load_yaml(file)
    assert config["policy"].pop("prediction_type") == "epsilon"
    file.write_text(yaml.safe_dump(config))
    said = refused_by(train_act.main, [*command_line, "--steps", "2"])
    assert "policy.prediction_type: epsilon -> sample" in said
    assert train_act.main([*command_line, *noise, "--steps", "2"])


@pytest.mark.slow
def test_a_training_that_stopped_goes_on_exactly_and_plays(short_training, tmp_path):
    command_line = [*short_training, *TINY.split()]
    assert_resumes_exactly_and_plays(command_line, tmp_path, 4, n_action_steps=3)
