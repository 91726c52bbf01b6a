"""A frozen policy is steered, from the command line: stopped, resumed, evaluated, recorded, refused."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import collect_dataset
import evaluate
import train_sac
from common.errors import UserError
from common.untrusted import load_json
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from policies import ASSETS, EXPERT, load_policy
from tests.act import tiny_act, tiny_diffusion
from tests.act.tiny import IMAGE, STATE, save
from tests.act.tiny_flow import make
from tests.runs import metrics
from tests.train_sac.runs import assert_same_run, contents

pytestmark = pytest.mark.slow

FLAGS = "--env.features agent_pos block_pos block_rotation --steering.n-action-steps 3 --steering.bound 1.5"
FLAGS += " --steering.rank 1 --total-env-steps 600 --training.eval-every 300 --env.no-mirror"
FLAGS += " --env.speed-limit None --env.speed-ramp 0 1"


@pytest.fixture
def frozen(tmp_path):
    return save(make(), tmp_path / "flow")


@pytest.fixture
def steering(frozen):
    return [*FLAGS.split(), "--steer-anyway", "--steering.policy", str(frozen)]


@pytest.fixture
def steer(steering, train):
    return lambda *flags: train(*steering, *flags)


def test_stopped_and_resumed_it_is_the_same_and_a_changed_policy_is_refused(
    steer, steering, frozen, refused, tmp_path, capfd
):
    steer("--run-name", "whole")
    assert f"steers        {frozen}" in capfd.readouterr().out
    steer("--total-env-steps", "300")
    steer()
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    rows = [row for row in metrics(tmp_path / "run") if row.get("Eval/success_rate")]
    assert len(rows) == 2 and contents(tmp_path / "run")["config"]["action_size"] == 2

    file = frozen / "config.json"
    file.write_text(json.dumps(load_json(file) | {"noise_std": 0.5}))
    more = (*steering, "--total-env-steps", "800")
    assert f"{frozen}: not the policy that this run steers, or changed since" in refused(*more)
    shutil.rmtree(frozen)
    assert f"{frozen}: no such folder" in refused(*more)


def test_with_noise_aliasing_and_demonstrations_it_resumes_and_its_checkpoint_is_like_any_other(
    steer, tmp_path
):
    demonstrations = tmp_path / "data"
    flags = f"--policy {EXPERT} --observations keypoints --episodes 2 --root {demonstrations}"
    collect_dataset.main(flags.split())
    flags = ["--agent.noise-aliasing", "--offline.dataset", str(demonstrations), "--offline.steps", "3"]
    steer(*flags, "--run-name", "whole")
    steer(*flags, "--total-env-steps", "300")
    steer(*flags)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    saved = contents(tmp_path / "run")
    assert saved["config"]["observation_size"] == 6 and saved["config"]["action_size"] == 2
    assert saved["tensors"]["replay.actions"].shape[1] == 2 * 3, "what was executed of each chunk"
    assert "agent.optimizer.noise_critics.0.exp_avg" in saved["tensors"]
    policy = load_policy(tmp_path / "run")
    (episode,) = rollout(policy.task.vector_env(1), policy, [7])
    assert len(episode) > 3


def test_mirrored_it_resumes_and_plays_as_in_training(steering, train, refused, tmp_path):
    mirrored = [flag for flag in steering if flag != "--env.no-mirror"]
    assert "env.mirror must be false with steering.policy" in refused(*mirrored)
    mirrored.append("--steering.symmetric")
    train(*mirrored, "--run-name", "whole")
    train(*mirrored, "--total-env-steps", "300")
    train(*mirrored)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    file = tmp_path / "run/checkpoints/last/config.json"
    settings, played = load_json(file), []
    without = {name: value for name, value in settings["steering"].items() if name != "symmetric"}
    for steering in (settings["steering"], without | {"symmetric": False}, without):
        file.write_text(json.dumps(settings | {"steering": steering}))
        policy = load_policy(file.parent)
        env, seeds = policy.task.vector_env(1), range(7, 11)
        played.append([episode.actions for episode in rollout(env, policy, seeds)])
    symmetric, as_it_is, of_an_older_checkpoint = played
    assert any(not np.array_equal(a, b) for a, b in zip(symmetric, as_it_is, strict=True))
    for a, b in zip(as_it_is, of_an_older_checkpoint, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--agent.noise-aliasing", "agent.noise_aliasing must be false without steering.policy"),
        ("--agent.distillation-steps 2", "agent.distillation_steps must be left out without noise_aliasing"),
        ("--steering.symmetric", "left out without steering.policy, got symmetric: False -> True"),
        ("--steering.bound 3", "left out without steering.policy, got bound: 2.0 -> 3.0"),
    ],
)
def test_without_a_policy_to_steer_it_is_refused(refused, flags, message):
    assert message in refused(*flags.split())


def test_its_checkpoint_plays_wherever_it_is(steer, frozen, refused_by, tmp_path):
    steer()
    checkpoint = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "run/checkpoints/last", checkpoint)
    shutil.rmtree(frozen)
    evaluate.main(f"--policy {checkpoint} --episodes 2 --json {tmp_path / 'numbers.json'}".split())
    assert load_json(tmp_path / "numbers.json")["n_action_steps"] == 3
    flags = f"--policy {checkpoint} --episodes 1 --all --observations keypoints --root"
    collect_dataset.main([*flags.split(), str(tmp_path / "set")])
    policy = load_policy(checkpoint)
    (episode,) = rollout(policy.task.vector_env(1), policy, [7])
    assert len({tuple(action) for action in episode.actions}) > len(episode) / 2, "each step has its own"

    play = ["--policy", str(checkpoint), "--episodes", "1"]
    settings = load_json(checkpoint / "config.json")
    for broken, expected in (
        ({"bound": 1.5}, "steering: n_action_steps, noise, rank missing, without which"),
        (None, "config.json: steering must hold settings, got None"),
        ("absent", "config.json: steering missing, and frozen is there to be steered"),
    ):
        changed = (
            {**settings, "steering": broken and {"policy": "x"} | broken}
            if broken != "absent"
            else {name: value for name, value in settings.items() if name != "steering"}
        )
        (checkpoint / "config.json").write_text(json.dumps(changed))
        assert expected in refused_by(evaluate.main, play)
    (checkpoint / "config.json").write_text(json.dumps(settings))

    weights = checkpoint / "frozen/model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    message = refused_by(evaluate.main, play)
    assert f"{checkpoint}/frozen: not the policy that {checkpoint} was trained to steer" in message
    shutil.rmtree(checkpoint / "frozen")
    shutil.copytree(ASSETS / "sac_expert", checkpoint / "frozen")
    assert "frozen: a policy of SAC draws no noise" in refused_by(evaluate.main, play)


def test_noise_that_moves_nothing_is_refused_with_what_was_measured(frozen, steering, refused):
    flow = make()
    torch.nn.init.zeros_(flow.net.first.weight)
    flow.chunk_std *= 1e-4
    save(flow, frozen)
    assert "cannot be steered: noise moves its actions by" in refused(*steering)


def test_a_policy_that_noise_does_not_help_is_refused_with_what_was_measured(
    steering, refused, monkeypatch, tmp_path
):
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=6))
    usual = [flag for flag in steering if flag != "--steer-anyway"]
    assert "steering has nothing to gain: of 32 starts it solves 0 % with noise 0" in refused(*usual)
    assert not (tmp_path / "run").exists()


def test_a_trial_draws_what_the_learner_could_choose(steering, tiny, monkeypatch, tmp_path):
    """Noise 0 once, then of about N(0, 1) in the directions of steering.rank, within steering.bound."""
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=6))
    config = train_sac.read_config(["--config", str(tiny), *steering])
    trainer = train_sac.build_trainer(config, tmp_path)
    directions, policy = trainer.env.steering.directions.reshape(2, -1), trainer.env.steering.policy
    drawn, chunk = [], policy.chunk
    monkeypatch.setattr(policy, "chunk", lambda seen, noise: drawn.append(noise) or chunk(seen, noise))
    with pytest.raises(UserError, match="nothing to gain"):
        train_sac.try_frozen(replace(config, steer_anyway=False), trainer, lambda: False)

    assert len(drawn) == 5 * 2, "mode and four draws, of 6 steps played 3 by 3"
    assert not any(noise.any() for noise in drawn[:2])
    noise = np.concatenate(drawn[2:]).reshape(4 * 2 * 32, -1)
    numbers = noise @ directions.T
    np.testing.assert_allclose(numbers @ directions, noise, atol=1e-6)
    assert np.abs(numbers).max() < 1.5 and len(np.unique(numbers, axis=0)) == len(numbers)
    normal = np.random.default_rng(0).normal(size=10_000)
    assert numbers.std() == pytest.approx(np.std(1.5 * np.tanh(normal / 1.5)), rel=0.1)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--steering.policy random", "random: this policy draws no noise, so there is nothing to steer"),
        ("--steering.policy assets/sac_expert", "this policy draws no noise, so there is nothing to steer"),
        ("--steering.bound 0", "steering.bound must be positive, got 0.0"),
        ("--steering.n-action-steps 6", "steering.n_action_steps must be at most 5, the actions of a chunk"),
        ("--env.speed-limit 44 15", "env must leave out what actions mean, because those of steering.policy"),
        ("--steering.rank 9", "steering.rank must be at most 5, the noise's steps, got 9"),
        ("--offline.dataset data/any", "offline.dataset must be empty where steering.policy is given"),
        (
            "--agent.noise-aliasing --offline.dataset data/any --offline.imitation 1",
            "offline.imitation must be 0 where steering.policy is given",
        ),
        ("--agent.noise-aliasing --agent.compile True", "agent.compile must be false with noise_aliasing"),
        ("--agent.noise-aliasing --agent.distillation-steps 0", "agent.distillation_steps must be"),
        (
            "--agent.noise-aliasing --steering.symmetric",
            "steering.symmetric must be false with agent.noise_al",
        ),
        ("--agent.noise-aliasing --env.mirror", "env.mirror must be false with agent.noise_aliasing"),
        ("--task pendulum", "pendulum"),
    ],
)
def test_what_cannot_be_steered_is_refused_and_nothing_trained(steering, refused, tmp_path, flags, message):
    if "--env.mirror" in flags:
        steering.remove("--env.no-mirror")
    assert message in refused(*steering, *flags.split())
    assert not list(tmp_path.glob("run/checkpoints/*"))


@pytest.fixture(params=["act", "diffusion"])
def frozen_of_pictures(request, tmp_path):
    """ACT with a latent, and a diffusion policy of the last two pictures."""
    if request.param == "act":
        policy = tiny_act.make((IMAGE, STATE))
    else:
        policy = tiny_diffusion.make(inputs=(IMAGE, STATE))
    return save(policy, tmp_path / request.param)


def test_a_policy_of_pictures_is_steered_by_the_state(frozen_of_pictures, train, tmp_path, monkeypatch):
    """What is not drawn is not looked at: where everything is, the same happens. So it does when resumed."""
    flags = [*FLAGS.split(), "--steer-anyway", "--steering.policy", str(frozen_of_pictures)]
    flags += ["--steering.noise", "full", "--training.start-steps", "20", "--total-env-steps", "60"]
    flags += ["--training.eval-every", "30", "--training.eval-episodes", "1"]
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=12))
    monkeypatch.setattr(train_sac, "AUTHORITY_STARTS", 2)
    train(*flags, "--run-name", "whole")
    train(*flags, "--total-env-steps", "30")
    train(*flags)
    assert_same_run(tmp_path / "run", tmp_path / "whole")
    policy = load_policy(tmp_path / "run/checkpoints/last")
    assert policy.image_size == (96 if frozen_of_pictures.name == "act" else 40)
    (episode,) = rollout(policy.task.vector_env(1, policy.image_size), policy, [7], keep_pixels=False)
    assert len(episode) > 1

    monkeypatch.setattr(
        PushTVectorEnv, "_draw", lambda env, chosen, draw=PushTVectorEnv._draw: draw(env, chosen | env.active)
    )
    train(*flags, "--run-name", "drawn")
    assert_same_run(tmp_path / "drawn", tmp_path / "whole")
