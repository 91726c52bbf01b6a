"""Policies: against the arithmetic written out, one slot at a time; and folders that cannot be opened."""

import json
import os
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import policies
from common.errors import UserError
from envs.pendulum import Pendulum
from envs.pusht.observations import features
from envs.pusht.scripted import ScriptedPolicy
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from policies import RandomPolicy, load_policy
from sac.actor import Actor
from sac.policy import SACPolicy

FEATURES = ("agent_pos", "agent_vel", "block_pos", "block_rotation", "agent_in_block_frame")
CONFIG = {  # as it was before there were several tasks
    "algorithm": "sac",
    "observation_size": 10,
    "action_size": 2,
    "hidden_sizes": [16, 8],
    "features": list(FEATURES),
    "action_mode": "relative",
    "action_bound": 80.0,
    "action_frame": "board",
    "speed_limit": None,
    "action_repeat": 1,
    "trained": {"env_steps": 1000, "seed": 1},
}


def write_checkpoint(folder, **changes):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | changes))
    torch.manual_seed(0)
    save_file(Actor(10, 2, [16, 8]).state_dict(), folder / "model.safetensors")
    return folder


def raw_observation(n, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "agent_pos": rng.uniform(20, 490, (n, 2)),
        "agent_vel": rng.normal(0, 100, (n, 2)),
        "block_pose": np.column_stack([rng.uniform(100, 400, (n, 2)), rng.uniform(-9, 9, n)]),
        "keypoints": rng.uniform(0, 512, (n, 8, 2)),
    }


def test_deterministic_sac_is_the_actor_written_out(tmp_path):
    policy = load_policy(write_checkpoint(tmp_path / "sac"))
    weights = {
        name: tensor.double().numpy()
        for name, tensor in load_file(tmp_path / "sac/model.safetensors").items()
    }
    raw = raw_observation(5)
    policy.reset(np.arange(5))
    targets = policy.act(raw)
    for i in range(5):
        (ax, ay), (bx, by, angle) = raw["agent_pos"][i], raw["block_pose"][i]
        cos, sin, dx, dy = np.cos(angle), np.sin(angle), ax - bx, ay - by
        in_block_frame = [(cos * dx + sin * dy) / 100, (cos * dy - sin * dx) / 100]
        places = [ax / 256 - 1, ay / 256 - 1, *raw["agent_vel"][i] / 200, bx / 256 - 1, by / 256 - 1]
        x = np.array([*places, cos, sin, *in_block_frame])
        for layer in (0, 2):
            x = np.maximum(weights[f"network.{layer}.weight"] @ x + weights[f"network.{layer}.bias"], 0)
        mean = (weights["network.4.weight"] @ x + weights["network.4.bias"])[:2]
        expected = np.clip(raw["agent_pos"][i] + 80 * np.tanh(mean), 0, 512)
        np.testing.assert_allclose(targets[i], expected, atol=1e-3)


def test_sampling_has_its_own_seeded_randomness(tmp_path):
    folder, raw = write_checkpoint(tmp_path / "sac"), raw_observation(4)
    first, second, other = (load_policy(folder, deterministic=False, seed=seed) for seed in (1, 1, 2))
    draws = [first.act(raw) for _ in range(200)]
    torch.manual_seed(123)
    np.testing.assert_array_equal([second.act(raw) for _ in range(200)], draws)
    assert not np.allclose(other.act(raw), draws[0])

    mean, log_std = first.actor(torch.from_numpy(features(raw, FEATURES)))
    pre_tanh = np.arctanh((np.array(draws) - raw["agent_pos"]) / 80)
    inside = ((np.array(draws) > 0) & (np.array(draws) < 512)).all(axis=(0, 2))
    assert inside.any()
    np.testing.assert_allclose(pre_tanh.mean(0)[inside], mean.detach()[inside], atol=0.3)
    np.testing.assert_allclose(pre_tanh.std(0)[inside], log_std.exp().detach()[inside], rtol=0.2)


def test_repeated_actions_against_one_slot_at_a_time():
    """Slots whose episodes begin at different times hold their targets independently."""
    actor = Actor(10, 2, [16])
    together = SACPolicy(actor, PushT(features=FEATURES, action_bound=40.0, action_repeat=3))
    decide = SACPolicy(actor, PushT(features=FEATURES, action_bound=40.0))
    ages = [0, 0, 0]
    held = [None] * 3
    rng = np.random.default_rng(0)
    together.reset(np.arange(3))
    for t in range(40):
        beginning = np.flatnonzero(rng.random(3) < 0.2)
        together.reset(beginning)
        raw = raw_observation(3, seed=t)
        targets, fresh = together.act(raw), decide.act(raw)
        for i in range(3):
            ages[i] = 0 if i in beginning else ages[i]
            held[i] = fresh[i] if ages[i] % 3 == 0 else held[i]
            ages[i] += 1
        np.testing.assert_array_equal(targets, held)


@pytest.mark.parametrize(("mode", "speed_limit"), [("relative", None), ("delta", 30.0)])
def test_a_policy_remembers_where_it_sent_each_agent_last(mode, speed_limit):
    """Slot by slot beside the features, the actor and the decoder called by hand."""
    names, limits = ("agent_pos", "target_lead"), speed_limit and (speed_limit, speed_limit)
    task = PushT(features=names, action_mode=mode, action_bound=80.0, speed_limit=limits)
    actor = Actor(4, 2, [16])
    policy = SACPolicy(actor, task)
    last = [None] * 3
    rng = np.random.default_rng(0)
    for t in range(30):
        raw = raw_observation(3, seed=t)
        beginning = np.flatnonzero(rng.random(3) < 0.2) if t else np.arange(3)
        policy.reset(beginning)
        for i in beginning:
            last[i] = raw["agent_pos"][i]
        remembered = raw | {"last_target": np.array(last)}
        with torch.no_grad():
            actions = actor.mode(torch.from_numpy(features(remembered, names))).double().numpy()
        last = list(policy.act(raw))
        np.testing.assert_array_equal(last, task.decoder()(actions, remembered))


def test_one_policy_serves_environments_of_different_sizes():
    policy = SACPolicy(Actor(10, 2, [16]), PushT(features=FEATURES, action_repeat=2))
    for n in (2, 5, 3):
        policy.reset(np.arange(n))
        raw = raw_observation(n)
        first = policy.act(raw)
        assert first.shape == (n, 2)
        np.testing.assert_array_equal(policy.act(raw_observation(n, seed=9)), first)


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "config.json: missing"),
    "not JSON": (lambda f: (f / "config.json").write_text("{"), "config.json: damaged"),
    "not a mapping": (
        lambda f: (f / "config.json").write_text("[]"),
        "config.json: damaged .it holds \\[\\] in place of names and values",
    ),
    "an empty mapping": (
        lambda f: (f / "config.json").write_text("{}"),
        "config.json: no algorithm and no type, so no policy of train_sac.py, train_act.py or lerobot-train",
    ),
    "unknown algorithm": (
        {"algorithm": "ppo"},
        "algorithm must be sac, or type act, diffusion, flow or smolvla, got 'ppo'",
    ),
    "a name that needs no folder": ({"algorithm": "scripted"}, "algorithm must be sac"),
    "a type that needs no folder": (
        lambda f: (f / "config.json").write_text('{"type": "random"}'),
        "this is a LeRobot policy of type 'random'",
    ),
    "a type as algorithm": (
        lambda f: (f / "config.json").write_text('{"algorithm": "act", "type": null}'),
        "algorithm must be sac, or type act, diffusion, flow or smolvla, got 'act'",
    ),
    "a key twice": (
        lambda f: (f / "config.json").write_text('{"algorithm": "sac", "algorithm": "sac"}'),
        "config.json: damaged .'algorithm' is given twice",
    ),
    "wrong type": ({"hidden_sizes": "256"}, "config.json: hidden_sizes: expected a list of int"),
    "unknown feature": ({"features": ["agent_pos", "wind"]}, "config.json: features must be of .*got wind"),
    "other layout": ({"features": ["agent_pos"]}, "config.json: observation_size must be 2"),
    "unknown mode": (
        {"action_mode": "sideways"},
        "config.json: action_mode: expected one of absolute, relative, delta",
    ),
    "no repeat": ({"action_repeat": 0}, "config.json: action_repeat must be at least 1, got 0"),
    "newer than this code": ({"frame_stack": 4}, "config.json: unknown key frame_stack"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: missing"),
    "absurd layer": ({"hidden_sizes": [10**9]}, "hidden_sizes must be at most 65536, got 1000000000"),
    "absurd layers": (
        {"hidden_sizes": [9] * 10**6},
        "hidden_sizes must have at most 1000 items, got 1000000",
    ),
    "layers beyond the memory": (
        {"hidden_sizes": [2**16] * 900},
        "an actor with layers of .10, 65536",
    ),
    "absurd setting": ({"action_bound": 1e300}, "config.json: action_bound must be at most 10000.0, got 1e"),
    "endless": ({"action_repeat": 10**9}, "config.json: action_repeat must be at most 1000, got 1000000000"),
    "400 digits": (
        lambda f: (f / "config.json").write_text('{"algorithm": "sac", "action_size": 1' + "0" * 400 + "}"),
        "config.json: damaged .it has an integer of 401 digits",
    ),
    "no name of a task": ({"task": ["pusht"] * 10**5}, r"task must be a name, got \['pusht', 'pusht'"),
    "LeRobot's of a type that does not play": (
        lambda f: (f / "config.json").write_text('{"type": "vqbet"}'),
        "this is a LeRobot policy of type 'vqbet'; those of type act, diffusion, flow or smolvla play here",
    ),
    "LeRobot's SAC": (
        lambda f: (f / "config.json").write_text('{"type": "sac"}'),
        "this is a LeRobot policy of type 'sac'; those of type act, diffusion, flow or smolvla play here",
    ),
    "no type": (
        lambda f: (f / "config.json").write_text('{"type": [1]}'),
        r"of type \[1\]; those of type act, diffusion, flow or smolvla play here",
    ),
    "truncated": (
        lambda f: os.truncate(f / "model.safetensors", 100),
        "model.safetensors: damaged",
    ),
    "other shapes": (
        {"hidden_sizes": [16, 9]},
        "model.safetensors: not the weights of an actor with layers of",
    ),
    "diverged": (
        lambda f: save_file(
            {k: v * np.nan for k, v in Actor(10, 2, [16, 8]).state_dict().items()}, f / "model.safetensors"
        ),
        "model.safetensors: some weights are not finite",
    ),
    "a bit flipped": (
        lambda f: save_file(
            {k: v + 1e30 for k, v in Actor(10, 2, [16, 8]).state_dict().items()}, f / "model.safetensors"
        ),
        "model.safetensors: some weights are not finite or beyond 1e",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_named_in_one_sentence(case, tmp_path):
    harm, message = BROKEN[case]
    folder = write_checkpoint(tmp_path / "sac", **(harm if isinstance(harm, dict) else {}))
    if callable(harm):
        harm(folder)
    with pytest.raises(UserError, match=message) as error:
        load_policy(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("key", [key for key in CONFIG if key not in ("algorithm", "trained")])
def test_a_missing_key_is_named(key, tmp_path):
    folder = write_checkpoint(tmp_path / "sac")
    (folder / "config.json").write_text(json.dumps({k: v for k, v in CONFIG.items() if k != key}))
    with pytest.raises(UserError, match=f"config.json: {key} missing"):
        load_policy(folder)


def test_a_policy_of_today_has_all_settings_of_its_task(tmp_path):
    """Defaults are no fallbacks: a policy trained with another bound would play wrongly."""
    folder = write_checkpoint(tmp_path / "sac")
    env = asdict(PushT(features=FEATURES))
    today = {name: CONFIG[name] for name in ("algorithm", "observation_size", "action_size", "hidden_sizes")}
    for settings, said in (
        (env, ""),
        ({k: v for k, v in env.items() if k != "action_bound"}, "env: action_bound missing"),
        (None, "env must hold the settings of task pusht, got None"),
        ([1], "env must hold the settings of task pusht"),
    ):
        content = today | {"task": "pusht", "env": settings}
        (folder / "config.json").write_text(json.dumps(content))
        if said:
            with pytest.raises(UserError, match=said):
                load_policy(folder)
        else:
            assert load_policy(folder).task == PushT(features=FEATURES)


def test_random_covers_the_board():
    targets = RandomPolicy(PushTVectorEnv(1).single_action_space, seed=3).act(raw_observation(5000))
    assert targets.shape == (5000, 2) and (targets >= 0).all() and (targets <= 512).all()
    np.testing.assert_allclose(targets.mean(axis=0), 256, atol=10)
    np.testing.assert_allclose(targets.std(axis=0), 512 / np.sqrt(12), atol=5)


def test_the_script_pushes_towards_the_goal():
    env = PushTVectorEnv(10)
    scripted = {episode.seed: episode for episode in rollout(env, ScriptedPolicy(), range(30))}
    gained = [episode.progress[1:].max() - episode.progress[0] for episode in scripted.values()]
    assert np.mean(gained) > 0.2


def test_an_expert_of_another_task_is_refused():
    with pytest.raises(UserError, match="trained on PushT, not on Pendulum-v1"):
        load_policy(policies.EXPERT, task=Pendulum())
