"""What a policy of any kind has to do, checked in one way for all kinds."""

from pathlib import Path

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy

import evaluate
import train_act
from act.kinds import find_kind
from act.opening import load_player, make_player
from common.untrusted import load_json, load_tensors
from envs.interfaces import RawObservation
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from envs.steering import Steering, SteeringConfig, SteeringEnv
from sac.actor import Actor, untrained
from sac.policy import SACPolicy
from tests.act.tiny import (
    IMAGE,
    KEYPOINTS,
    STATE,
    TASK,
    num_valid,
    observations,
    player_of,
    processors_of,
    save,
)

SENTENCE = "Push the T-shaped blue block onto the T-shaped green target surface."


def assert_losses_add_up(policy: PreTrainedPolicy, whole: dict[str, torch.Tensor]) -> None:
    """To the loss of the whole batch of 6, where the random numbers are fixed."""
    loss, valid = find_kind(policy.config.type).make_loss(policy), num_valid(whole)
    pieces = [{name: tensor[i : i + 4] for name, tensor in whole.items()} for i in (0, 4)]
    added = sum(loss(piece, valid, 6) for piece in pieces)
    torch.testing.assert_close(added, loss(whole, valid, 6), rtol=1e-5, atol=0)


def as_lerobot_shows_it(raw: RawObservation, slot: int) -> dict:
    """A slot's observation, before a policy's processors."""
    one = {name: torch.from_numpy(values[slot : slot + 1]) for name, values in raw.items()}
    seen = {STATE: one["agent_pos"].float(), "task": SENTENCE}
    if "pixels" in one:
        return seen | {IMAGE: one["pixels"].movedim(-1, 1).float() / 255}
    return seen | {KEYPOINTS: one["keypoints"].flatten(1).float()}


def assert_slots_play_as_lerobots_alone(policy: PreTrainedPolicy, side: int = 0) -> None:
    """From noise 0; with pictures of so many pixels, or else keypoints."""
    pre, post = processors = processors_of(policy)
    player = make_player(policy, processors, TASK)
    raws = [observations(2, seed, side) for seed in range(5)]
    player.reset(np.arange(2))
    together = [player.act(raw) for raw in raws]
    for slot in range(2):
        policy.reset()
        for raw, actions in zip(raws, together, strict=True):
            noise = torch.zeros(1, *player.noise_shape)
            action = post(policy.select_action(pre(as_lerobot_shows_it(raw, slot)), noise=noise))[0]
            np.testing.assert_allclose(actions[slot], np.clip(action, 0, 512), atol=1e-2)


def assert_plays_the_same_opened_again(policy: PreTrainedPolicy, folder: Path, side: int = 0) -> None:
    """Opened by us and by LeRobot."""
    save(policy, folder)
    before, raw = player_of(policy), observations(side=side)
    noise = np.random.default_rng(1).standard_normal((3, *before.noise_shape))
    chunk = before.chunk(raw, noise)
    for player in (load_player(folder, TASK), player_of(type(policy).from_pretrained(folder))):
        assert np.array_equal(player.chunk(raw, noise), chunk)
        assert np.abs(chunk - player.chunk(raw, -noise)).max() > 1.0


def assert_resumes_exactly_and_plays(
    command_line: list[str], logs: Path, half: int, n_action_steps: int
) -> Path:
    """Against a training of twice `half` steps without a stop; returns the last checkpoint."""
    for name, steps in (("run", half), ("run", 2 * half), ("whole", 2 * half)):
        assert train_act.main([*command_line, "--run-name", name, "--steps", str(steps)])
    last, whole = (logs / name / "checkpoints" / "last" for name in ("run", "whole"))
    for file in ("pretrained_model/model.safetensors", "training_state/trainer.safetensors"):
        resumed, at_once = (load_tensors(folder / file) for folder in (last, whole))
        assert resumed.keys() == at_once.keys()
        assert all(torch.equal(resumed[name], at_once[name]) for name in at_once), file
    numbers = logs / "numbers.json"
    evaluate.main(f"--policy {last} --episodes 2 --output {logs} --json {numbers}".split())
    assert load_json(numbers)["n_action_steps"] == n_action_steps
    return last


def assert_noise_0_plays_as_unsteered(policy: PreTrainedPolicy, side: int = 0) -> None:
    """In evaluation and in training, where it looks again in the middle of an episode; so it does resumed."""
    task = PushT(num_envs=3, mirror=False, curriculum=0.0)
    steering = Steering(player_of(policy), SteeringConfig(rank=2), PushT())
    actor = untrained(Actor(task.codec(0).observation_size, steering.action_size, [4]), std=1.0)
    steered = SACPolicy(actor, task, escapes=False, steering=steering)
    alone, env = player_of(policy), PushTVectorEnv(2, side, max_episode_steps=14)
    ours, theirs = (
        {episode.seed: episode for episode in rollout(env, player, range(5))} for player in (steered, alone)
    )
    for seed, episode in theirs.items():
        np.testing.assert_allclose(ours[seed].actions, episode.actions, atol=1e-2)

    training, resumed = (
        SteeringEnv(task.training_env(1, gamma=0.98, image_size=side), steering) for _ in range(2)
    )
    training.reset()
    beside, _ = (env := PushTVectorEnv(3, side)).reset(seed=training.env.seeds)
    alone.reset(np.arange(3))
    for decision in range(4):
        if decision == 2:
            mask = np.array([False, True, False])
            training.reset(mask)
            beside, _ = env.reset(seed=training.env.seeds, options={"reset_mask": mask})
            alone.reset(np.array([1]))
        training.step(np.zeros((3, steering.action_size)))
        for _ in range(steering.n_action_steps):
            beside, *_ = env.step(alone.act(beside))
        np.testing.assert_allclose(training.env.raw["agent_pos"], beside["agent_pos"], atol=1e-2)
    resumed.load_state_dict(*training.state_dict())
    if training.env.history:
        for name, values in training.env.history.observations.items():
            np.testing.assert_array_equal(resumed.env.history.observations[name], values)
