"""The diffusion policy against LeRobot's own and DDIM's equation written out; resume, players, steering."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies import make_pre_post_processors
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

import evaluate
import train_act
from act.kinds import find_kind
from act.kinds.diffusion import PolicyConfig
from act.opening import load_player, make_player
from act.optimizer import OptimizerConfig
from common.config import from_dict, to_dict
from common.errors import UserError
from common.untrusted import load_json, load_tensors
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from envs.steerability import visited
from envs.steering import Steering, SteeringConfig, SteeringEnv
from sac.policy import SACPolicy
from tests.act.tiny import IMAGE, KEYPOINTS, STATE, features, make_batch

KIND, TASK = find_kind("diffusion"), PushT()
HORIZON = 8
SETTINGS = PolicyConfig(
    horizon=HORIZON,
    n_action_steps=3,
    down_dims=(8, 16),
    n_groups=4,
    diffusion_step_embed_dim=8,
    num_train_timesteps=10,
    num_inference_steps=3,
    inputs=(STATE, KEYPOINTS),
)
STATS = {
    name: {"mean": np.full(size, 250.0), "std": np.full(size, 100.0)}
    for name, size in ((STATE, 2), (KEYPOINTS, 16), ("action", 2))
}
STATS[IMAGE] = {"mean": np.full((3, 1, 1), 0.4), "std": np.full((3, 1, 1), 0.2)}
CAMERA = {"observation.image2": PolicyFeature(FeatureType.VISUAL, (3, 40, 40))}


def make(seed=1, **changes) -> DiffusionPolicy:
    settings = replace(SETTINGS, **changes)
    config = KIND.make_config(settings, features(side=40), OptimizerConfig(), "cpu")
    return KIND.make_policy(config, settings, seed, None)[0].eval()


def samples(n_obs_steps=2, size=6):
    """Normalised, with several observations each and longer chunks than `make_batch`'s."""
    batch, generator = make_batch(size), torch.Generator().manual_seed(1)
    seen = {name: batch[name][:, None] * torch.ones(n_obs_steps, 1) for name in (STATE, KEYPOINTS)}
    seen[IMAGE] = torch.rand(size, n_obs_steps, 3, 40, 40, generator=generator)
    lengths = torch.randint(1, HORIZON, (size, 1), generator=generator)
    actions = torch.rand(size, HORIZON, 2, generator=generator) * 2 - 1
    return seen | {"action": actions, "action_is_pad": torch.arange(HORIZON) >= lengths}


def player_of(policy):
    return make_player(policy, make_pre_post_processors(policy.config, dataset_stats=STATS), TASK)


def observations(num_slots=3, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "agent_pos": rng.uniform(100, 400, (num_slots, 2)),
        "keypoints": rng.uniform(100, 400, (num_slots, 8, 2)),
    }


def valid(batch):
    return (~batch["action_is_pad"]).sum() * 2


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("inputs", [(STATE, KEYPOINTS), (STATE, IMAGE)])
def test_loss_is_lerobots(inputs, masked):
    policy, batch = make(inputs=inputs, do_mask_loss_for_padding=masked), samples()
    torch.manual_seed(3)
    theirs, _ = policy.forward(batch)
    torch.manual_seed(3)
    (loss,) = KIND.make_loss(policy)(batch, valid(batch), 6)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    if IMAGE in inputs:
        torch.manual_seed(3)
        (of_another,) = KIND.make_loss(policy)(batch | {IMAGE: batch[IMAGE].flip(-1)}, valid(batch), 6)
        assert of_another.item() != pytest.approx(loss.item(), rel=1e-6), "it sees the picture"


@pytest.mark.parametrize("masked", [False, True])
def test_losses_of_pieces_add_up(masked, monkeypatch):
    policy, whole = make(do_mask_loss_for_padding=masked), samples()
    monkeypatch.setattr(torch, "randn", lambda shape, **_: torch.full(shape, 0.3))
    monkeypatch.setattr(torch, "randint", lambda low, high, size, **_: torch.full(size, 4))
    pieces = [{name: tensor[i : i + 4] for name, tensor in whole.items()} for i in (0, 4)]
    loss = KIND.make_loss(policy)
    added = sum(loss(piece, valid(whole), 6) for piece in pieces)
    torch.testing.assert_close(added, loss(whole, valid(whole), 6), rtol=1e-5, atol=0)


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
    policy = make()
    pre, post = make_pre_post_processors(policy.config, dataset_stats=STATS)
    player = make_player(policy, (pre, post), TASK)
    raws = [observations(2, seed) for seed in range(5)]
    player.reset(np.arange(2))
    together = [player.act(raw) for raw in raws]
    for slot in range(2):
        policy.reset()
        for raw, actions in zip(raws, together, strict=True):
            one = {
                STATE: torch.from_numpy(raw["agent_pos"][slot : slot + 1]).float(),
                KEYPOINTS: torch.from_numpy(raw["keypoints"][slot : slot + 1]).flatten(1).float(),
            }
            action = post(policy.select_action(pre(one), noise=torch.zeros(1, HORIZON, 2)))[0]
            np.testing.assert_allclose(actions[slot], np.clip(action, 0, 512), atol=1e-2)


def test_saved_and_opened_again_it_plays_the_same(tmp_path):
    policy = make(n_obs_steps=1)
    for part in (policy, *make_pre_post_processors(policy.config, dataset_stats=STATS)):
        part.save_pretrained(tmp_path)
    raw, noise = observations(), np.random.default_rng(1).standard_normal((3, HORIZON, 2))
    chunk = player_of(policy).chunk(raw, noise)
    assert np.array_equal(load_player(tmp_path, TASK).chunk(raw, noise), chunk)
    assert np.array_equal(player_of(DiffusionPolicy.from_pretrained(tmp_path)).chunk(raw, noise), chunk)
    assert np.abs(chunk - player_of(policy).chunk(raw, -noise)).max() > 1.0


def test_a_policy_of_lerobots_for_ddpm_is_played_with_ddim(tmp_path):
    policy = make(n_obs_steps=1)
    policy.config.noise_scheduler_type = "DDPM"
    for part in (policy, *make_pre_post_processors(policy.config, dataset_stats=STATS)):
        part.save_pretrained(tmp_path)
    raw, noise = observations(), np.random.default_rng(1).standard_normal((3, HORIZON, 2))
    opened = load_player(tmp_path, TASK)
    assert np.array_equal(opened.chunk(raw, noise), player_of(make(n_obs_steps=1)).chunk(raw, noise))


@pytest.mark.parametrize("name", ["prediction_type", "clip_sample", "crop_shape", "normalization_mapping"])
def test_a_configuration_that_leaves_out_how_it_is_played_is_refused(tmp_path, name):
    policy = make(n_obs_steps=1)
    for part in (policy, *make_pre_post_processors(policy.config, dataset_stats=STATS)):
        part.save_pretrained(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({key: value for key, value in load_json(file).items() if key != name}))
    with pytest.raises(UserError, match=f"{name} missing, without which the policy cannot be opened"):
        load_player(tmp_path, TASK)


def test_pictures_are_played_as_lerobots_policy_does_alone():
    """With what a foreign policy may have: crops, one encoder for all cameras, batch norms."""
    config = make(inputs=(STATE, IMAGE)).config
    config.crop_shape, config.use_separate_rgb_encoder_per_camera = (36, 36), False
    config.use_group_norm = False
    policy = KIND.open_policy(config).eval()
    pre, post = make_pre_post_processors(policy.config, dataset_stats=STATS)
    player = make_player(policy, (pre, post), TASK)
    rng = np.random.default_rng(0)
    raws = [
        {"agent_pos": rng.uniform(100, 400, (2, 2)), "pixels": rng.integers(0, 256, (2, 40, 40, 3), np.uint8)}
        for _ in range(4)
    ]
    together = [player.act(raw) for raw in raws]
    for slot in range(2):
        policy.reset()
        for raw, actions in zip(raws, together, strict=True):
            picture = torch.from_numpy(raw["pixels"][slot : slot + 1]).movedim(-1, 1).float() / 255
            one = {STATE: torch.from_numpy(raw["agent_pos"][slot : slot + 1]).float(), IMAGE: picture}
            action = post(policy.select_action(pre(one), noise=torch.zeros(1, HORIZON, 2)))[0]
            np.testing.assert_allclose(actions[slot], np.clip(action, 0, 512), atol=1e-2)


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


class Rest(torch.nn.Module):
    """An actor whose noise is 0."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def mode(self, observations):
        return torch.zeros(len(observations), 4)


@pytest.mark.slow
@pytest.mark.parametrize("n_obs_steps", [1, 2, 3])
def test_steered_by_noise_0_it_plays_as_it_does_alone(n_obs_steps):
    """In evaluation and in training, where it looks again in the middle of an episode."""
    task = PushT(num_envs=3, mirror=False, curriculum=0.0)
    make_frozen = partial(player_of, make(n_obs_steps=n_obs_steps))
    steering = Steering(make_frozen(), SteeringConfig(rank=2))
    steered = SACPolicy(Rest(), task, escapes=False, steering=steering)
    alone, env = make_frozen(), PushTVectorEnv(2, max_episode_steps=14)
    ours, theirs = (
        {episode.seed: episode for episode in rollout(env, policy, range(5))} for policy in (steered, alone)
    )
    for seed, episode in theirs.items():
        np.testing.assert_allclose(ours[seed].actions, episode.actions, atol=1e-2)

    training = SteeringEnv(task.training_env(1, gamma=0.98), steering)
    training.reset()
    beside, _ = (env := PushTVectorEnv(3)).reset(seed=training.env.seeds)
    alone.reset(np.arange(3))
    for decision in range(4):
        if decision == 2:
            mask = np.array([False, True, False])
            training.reset(mask)
            beside, _ = env.reset(seed=training.env.seeds, options={"reset_mask": mask})
            alone.reset(np.array([1]))
        training.step(np.zeros((3, 4)))
        for _ in range(steering.n_action_steps):
            beside, *_ = env.step(alone.act(beside))
        np.testing.assert_allclose(training.env.raw["agent_pos"], beside["agent_pos"], atol=1e-2)
    arrays = training.state_dict()
    resumed = SteeringEnv(task.training_env(1, gamma=0.98), steering)
    resumed.load_state_dict(*arrays)
    if n_obs_steps > 1:
        for name, values in training.env.history.observations.items():
            np.testing.assert_array_equal(resumed.env.history.observations[name], values)


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


TINY = "--policy.type diffusion --policy.down-dims 8 16 --policy.n-groups 4 --policy.horizon 8 --batch-size 4"
TINY += " --policy.diffusion-step-embed-dim 8 --policy.num-train-timesteps 10 --policy.num-inference-steps 2"
TINY += " --policy.n-action-steps 3 --device cpu --optimizer.schedule constant --optimizer.warmup-steps 0"
TINY += " --training.eval-every 0 --training.eval-episodes 1 --training.video-every 0 --dataset.mirror"


@pytest.mark.slow
def test_a_training_that_stopped_goes_on_exactly_and_plays(make_dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=6))
    (config := tmp_path / "diffusion.yaml").write_text(f"logs: {tmp_path}\nrun_name: run")
    usual = ["--config", str(config), "--dataset.root", str(make_dataset(tmp_path / "data")), *TINY.split()]
    for flags in ("--steps 4", "--steps 8", "--steps 8 --run-name whole"):
        train_act.main([*usual, *flags.split()])
    folders = [tmp_path / name / "checkpoints" / "last" for name in ("run", "whole")]
    for file in ("pretrained_model/model.safetensors", "training_state/trainer.safetensors"):
        resumed, whole = (load_tensors(folder / file) for folder in folders)
        assert resumed.keys() == whole.keys()
        assert all(torch.equal(resumed[name], whole[name]) for name in whole), file
    numbers = tmp_path / "numbers.json"
    evaluate.main(f"--policy {folders[0]} --episodes 2 --output {tmp_path} --json {numbers}".split())
    assert load_json(numbers)["n_action_steps"] == 3
