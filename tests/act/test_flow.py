"""The flow policy against the same written out, sample by sample; resume, players, lerobot-eval."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies import make_pre_post_processors

import evaluate
from act.dataset import DatasetConfig, open_dataset, read_vectors
from act.flow import FlowPolicy
from act.frames import Frames
from act.opening import load_player
from act.optimizer import OptimizerConfig
from act.steerable import SteerablePlayer
from common.errors import UserError
from common.paths import REPOSITORY
from common.untrusted import load_json, load_tensors
from envs.pusht.vector import PushTVectorEnv
from tests.act.checks import (
    assert_losses_add_up,
    assert_noise_0_plays_as_unsteered,
    assert_plays_the_same_opened_again,
    assert_resumes_exactly_and_plays,
    assert_slots_play_as_lerobots_alone,
)
from tests.act.interop import EVALUATION, KEYPOINTS_ENV, assert_evaluate_agrees
from tests.act.tiny import (
    CHUNK,
    IMAGE,
    KEYPOINTS,
    STATE,
    TASK,
    features,
    make_batch,
    observations,
    player_of,
    save,
)
from tests.act.tiny_flow import KIND, SETTINGS, SIDE, make, pixels


def velocity(weights, seen, chunk, time):
    """Of one sample, layer by layer."""
    phases = [time * 2**k * torch.pi for k in range(4)]
    waves = torch.tensor([[f(phase) for phase in phases] for f in (np.sin, np.cos)]).flatten()
    x = torch.cat([seen, chunk.flatten(), torch.tensor([time]), waves]).float()
    h = weights["net.first.weight"] @ x + weights["net.first.bias"]
    for i in range(2):
        w = {k.removeprefix(f"net.blocks.{i}."): v for k, v in weights.items()}
        y = F.layer_norm(h, h.shape, w["0.weight"], w["0.bias"])
        h = h + w["3.weight"] @ F.gelu(w["1.weight"] @ y + w["1.bias"]) + w["3.bias"]
    y = F.layer_norm(h, h.shape, weights["net.last.0.weight"], weights["net.last.0.bias"])
    return (weights["net.last.1.weight"] @ y + weights["net.last.1.bias"]).reshape(chunk.shape)


def places_in(weights, picture):
    """Of each last filter, place by place."""
    w = {k.removeprefix("eyes.0.layers."): v for k, v in weights.items() if k.startswith("eyes.0.")}
    patches = (picture - 0.5).unflatten(2, (-1, 4)).unflatten(1, (-1, 4))  # (3, rows, 4, columns, 4)
    maps = torch.einsum("cryux,fcyx->fru", patches, w["0.weight"])
    maps = F.relu(maps + w["0.bias"][:, None, None])
    maps = F.relu(F.conv2d(maps[None], w["2.weight"], w["2.bias"], stride=2, padding=1))
    maps = F.conv2d(maps, w["4.weight"], padding=1)[0]
    x, y = [], []
    for one in maps:
        shares = one.exp() / one.exp().sum()
        x.append(sum(share * (-2 + 4 * column / 3) for row in shares for column, share in enumerate(row)))
        y.append(sum(share * (-2 + 4 * r / 3) for r, row in enumerate(shares) for share in row))
    return torch.stack([*x, *y])


def seen_by(weights, batch, i, inputs=(STATE, KEYPOINTS)):
    raw = torch.cat([batch[name][i] for name in inputs if name != IMAGE])
    numbers = (raw - weights["observation_mean"]) / weights["observation_std"]
    return torch.cat([numbers, places_in(weights, batch[IMAGE][i])]) if IMAGE in inputs else numbers


@pytest.mark.parametrize("inputs", [(STATE, KEYPOINTS), (IMAGE, STATE)])
@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("masked", [False, True])
def test_loss_is_the_squared_error_of_the_velocity(inputs, relative, masked):
    policy, batch = (
        make(inputs=inputs, relative=relative, do_mask_loss_for_padding=masked),
        pixels(make_batch()),
    )
    weights = policy.state_dict()
    torch.manual_seed(3)
    loss, numbers = policy.forward(batch)
    torch.manual_seed(3)
    starts, times = torch.randn(6, CHUNK, 2), torch.rand(6, 1, 1)
    errors = []
    for i in range(6):
        target = batch["action"][i] - (batch[STATE][i] if relative else weights["chunk_mean"])
        end = target / weights["chunk_std"]
        time = times[i].item()
        moved = velocity(
            weights, seen_by(weights, batch, i, inputs), (1 - time) * starts[i] + time * end, time
        )
        for step in range(CHUNK):
            if not (masked and batch["action_is_pad"][i, step]):
                errors.append((moved - end + starts[i])[step] ** 2)
    expected = torch.cat(errors).mean().item()
    assert loss.item() == pytest.approx(expected, rel=1e-5) and numbers["flow_loss"] == loss.item()


@pytest.mark.parametrize("masked", [False, True])
def test_losses_of_pieces_add_up(masked, monkeypatch):
    monkeypatch.setattr(torch, "randn_like", lambda tensor: 0.1 * tensor)
    monkeypatch.setattr(torch, "rand", lambda *shape, **_: torch.full(shape, 0.3))
    assert_losses_add_up(make(do_mask_loss_for_padding=masked), pixels(make_batch()))


@pytest.mark.parametrize("relative", [True, False])
def test_a_chunk_is_the_end_of_eulers_steps(relative):
    policy, batch, noise = make(relative=relative), pixels(make_batch()), torch.randn(6, CHUNK, 2)
    weights, chunks = policy.state_dict(), policy.predict_action_chunk(batch, noise)
    for i in range(6):
        x = noise[i]
        for step in range(3):
            x = x + velocity(weights, seen_by(weights, batch, i), x, step / 3) / 3
        origin = batch[STATE][i] if relative else weights["chunk_mean"]
        torch.testing.assert_close(chunks[i], x * weights["chunk_std"] + origin, rtol=1e-4, atol=1e-3)
    assert torch.equal(policy.predict_action_chunk(batch), policy.predict_action_chunk(batch, 0 * noise))
    policy.config.noise_std = 2.0
    torch.manual_seed(4)
    drawn = policy.predict_action_chunk(batch)
    torch.manual_seed(4)
    assert torch.equal(drawn, policy.predict_action_chunk(batch, 2 * torch.randn(6, CHUNK, 2)))


@pytest.mark.parametrize("mirror", [False, True])
def test_statistics_are_those_of_all_samples(make_dataset, tmp_path, mirror):
    dataset = DatasetConfig(root=make_dataset(tmp_path / "data", lengths=(9, 5)), mirror=mirror)
    meta, policy = open_dataset(dataset, TASK), make()
    pre, _ = make_pre_post_processors(policy.config, dataset_stats=meta.stats)
    frames = Frames(meta, policy.config, pre, torch.device("cpu"), dataset, tmp_path, TASK)
    KIND.measure_data(policy, frames.samples())

    columns = read_vectors(meta, (STATE, KEYPOINTS, "action"), 14)
    views = [columns]
    if mirror:
        raw = TASK.lerobot_names | {"action": "action"}
        views.append({k: TASK.mirror_feature(raw[k], v, False) for k, v in columns.items()})
    seen, chunks = [], []
    for view in views:
        for first, last in ((0, 8), (9, 13)):
            for t in range(first, last + 1):
                seen.append(np.concatenate([view[STATE][t], view[KEYPOINTS][t]]))
                chunks.append([view["action"][min(t + k, last)] - view[STATE][t] for k in range(CHUNK)])
    assert policy.num_measured == len(seen) == (28 if mirror else 14)
    for ours, theirs in [
        (policy.observation_mean, np.mean(seen, axis=0)),
        (policy.observation_std, np.std(seen, axis=0)),
        (policy.chunk_std, np.std(chunks, axis=0)),
        (policy.chunk_mean, np.zeros((CHUNK, 2))),
    ]:
        np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def test_a_number_that_never_changes_is_not_divided_by():
    policy, batch = make(), pixels(make_batch())
    batch[KEYPOINTS][:, 3] = 511.3
    policy.measure([batch])
    assert policy.observation_std[5] == 1.0 and (policy.observation_std[:5] > 10).all()


def test_a_player_makes_the_same_chunk_of_the_same_noise():
    player, raw = player_of(make()), observations(40)
    assert isinstance(player, SteerablePlayer) and player.noise_shape == (CHUNK, 2)
    noise = np.random.default_rng(1).standard_normal((40, CHUNK, 2))
    chunks = player.chunk(raw, noise)
    assert np.array_equal(chunks, player.chunk(raw, noise))
    one = player.chunk({name: values[37:38] for name, values in raw.items()}, noise[37:38])
    np.testing.assert_allclose(one[0], chunks[37], rtol=0, atol=1e-3)  # another row of another product
    assert np.abs(chunks - player.chunk(raw, -noise)).max() > 1.0
    with pytest.raises(ValueError, match=r"noise must be of shape \(40, 5, 2\), got \(40, 2\)"):
        player.chunk(raw, noise[:, 0])


def test_it_plays_noise_0_or_draws_each_slots_own():
    player, raw = player_of(make()), observations()
    rest = np.zeros((3, CHUNK, 2))
    player.reset(np.arange(3))
    assert np.array_equal(player.act(raw), player.chunk(raw, rest)[:, 0])
    player.sampled = True
    player.seed_slots([5, 6, 7])
    player.reset(np.array([0, 2]))
    drawn = rest.copy()
    drawn[0], drawn[2] = (np.random.default_rng(seed).standard_normal((CHUNK, 2)) for seed in (5, 7))
    actions = player.act(raw)
    np.testing.assert_allclose(actions[[0, 2]], player.chunk(raw, drawn)[[0, 2], 0], rtol=0, atol=1e-3)
    assert np.array_equal(actions[1], player.chunk(raw, rest)[1, 1]), "the second of its chunk"


def test_slots_play_as_lerobots_policy_does_alone():
    assert_slots_play_as_lerobots_alone(make())
    assert_slots_play_as_lerobots_alone(make(inputs=(IMAGE, STATE)), SIDE)


@pytest.mark.parametrize(("inputs", "side"), [((STATE, KEYPOINTS), 0), ((STATE, IMAGE), SIDE)])
def test_saved_and_opened_again_it_plays_the_same(tmp_path, inputs, side):
    assert_plays_the_same_opened_again(make(inputs=inputs), tmp_path, side)


@pytest.mark.slow
def test_steered_by_noise_0_a_policy_of_pictures_plays_as_it_does_alone():
    assert_noise_0_plays_as_unsteered(make(inputs=(IMAGE, STATE)), SIDE)


def test_a_checkpoint_from_before_it_saw_pictures_plays(tmp_path):
    file = save(make(), tmp_path) / "config.json"
    content = {k: v for k, v in load_json(file).items() if k not in ("filters", "patch_size")}
    file.write_text(json.dumps(content))
    assert np.array_equal(
        load_player(tmp_path, TASK).act(observations()), player_of(make()).act(observations())
    )


def test_each_slot_draws_its_own_noise(tmp_path):
    save(make(), tmp_path)
    raw = observations()
    draws = [load_player(tmp_path, TASK, sampled=True, seed=seed).act(raw) for seed in (1, 1, 2)]
    assert np.array_equal(draws[0], draws[1]) and not np.array_equal(draws[0], draws[2])


def test_evaluate_measures_how_far_it_can_be_steered(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("envs.pusht.task.PushTVectorEnv", lambda *a: PushTVectorEnv(*a, max_episode_steps=8))
    folder = save(make(), tmp_path / "flow")
    flags = (
        f"--policy {folder} --episodes 3 --num-envs 3 --output {tmp_path} --steerability --best-of 2".split()
    )
    evaluate.main(flags)
    numbers = load_json(tmp_path / "steerability_flow.json")
    assert numbers["noise_spread"] / numbers["state_spread"] == numbers["authority"] > 0.1
    assert (len(numbers["best_of"]), numbers["episodes"], numbers["seeds"]) == (2, 3, [100_000, 100_002])
    assert f"authority         {numbers['authority']:.2f}" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir() if path.name != "flow"] == ["steerability_flow.json"]
    (dull := make()).chunk_std[:] = 1e-3
    save(dull, folder)
    with pytest.raises(SystemExit):
        evaluate.main(flags)
    assert "cannot be steered: noise moves its actions by" in capsys.readouterr().err


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 64},
        {"chunk_size": 500, "n_layers": 1},
        {"inputs": (STATE, IMAGE), "filters": (99, 9), "patch_size": 8},
        {"inputs": (STATE, IMAGE), "filters": (8, 16, 99)},
    ],
)
def test_it_has_at_least_the_weights_that_are_counted(changes):
    policy = make(**changes)
    counted, built = KIND.least_size(policy.config)[0], sum(p.numel() for p in policy.parameters())
    assert 0.5 * built < counted < built


TINY = "--dataset.mirror --policy.type flow --policy.hidden-size 8 --policy.n-layers 1 --policy.chunk-size 4"
TINY += " --policy.n-action-steps 2 --policy.filters 4 4"


@pytest.mark.slow
@pytest.mark.parametrize("side", [0, SIDE])
def test_a_training_that_stopped_goes_on_exactly_and_plays(short_training, make_dataset, tmp_path, side):
    command_line = [*short_training, *TINY.split()]
    if side:
        root = command_line.index("--dataset.root") + 1
        command_line[root] = str(make_dataset(tmp_path / "pictures", pictures=side))
    last = assert_resumes_exactly_and_plays(command_line, tmp_path, 10, n_action_steps=2)
    assert load_tensors(last / "pretrained_model/model.safetensors")["num_measured"] == 52


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": (IMAGE,)}, "policy.inputs must have observation.state or observation.environment_state"),
        ({"inputs": (STATE, "observation.x")}, "the dataset has no observation.x, it has observation.state"),
        (
            {"inputs": (KEYPOINTS,)},
            "policy.relative must be false: it takes the first 2 numbers of observation.state from",
        ),
        (
            {"inputs": (STATE, IMAGE), "patch_size": 16},
            "patch_size must be less: observation.image has 32 x 32 pixels, which leaves a map of 1 x 1",
        ),
    ],
)
def test_what_it_cannot_see_is_refused(changes, message):
    with pytest.raises(UserError, match=message):
        make(**changes)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([32, 32], r"must be pictures \(3, height, width\), and observation.image is \(32, 32\)"),
        ([], r"must be pictures \(3, height, width\), and observation.image is \(\)"),
        ([32, 32, 3], "must be pictures"),
        ([3, 32, 6_000_000_000], "must be pictures"),
        (
            [3, 32, 34],
            "patch_size must divide the sides of pictures: observation.image has 34 x 32",
        ),
    ],
)
def test_a_strangers_pictures_are_refused_before_they_take_memory(tmp_path, shape, message):
    file = save(make(inputs=(IMAGE, STATE)), tmp_path) / "config.json"
    content = load_json(file)
    content["input_features"][IMAGE]["shape"] = shape
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        load_player(tmp_path, TASK)


def test_pictures_of_another_size_are_not_seen():
    policy, batch = make(inputs=(IMAGE, STATE)), pixels(make_batch())
    with pytest.raises(ValueError, match=r"pictures must be of shape \(3, 32, 32\), got \(3, 32, 28\)"):
        policy.predict_action_chunk(batch | {IMAGE: batch[IMAGE][..., :28]})


def test_an_input_that_is_neither_a_state_nor_a_picture_is_refused():
    config = make().config
    config.input_features["observation.language"] = PolicyFeature(FeatureType.LANGUAGE, (4,))
    with pytest.raises(ValueError, match="sees states and pictures, and observation.language is LANGUAGE"):
        FlowPolicy(config)


def test_left_to_itself_it_sees_pictures_where_there_are_some_and_else_all_numbers():
    there = features()
    for missing, seen in [
        ([], [IMAGE, STATE]),
        ([IMAGE], [STATE, KEYPOINTS]),
        ([IMAGE, KEYPOINTS], [STATE]),
    ]:
        shown = {name: feature for name, feature in there.items() if name not in missing}
        config = KIND.make_config(replace(SETTINGS, inputs=()), shown, OptimizerConfig(), "cpu")
        assert list(config.input_features) == seen


def test_a_policy_without_statistics_does_not_learn():
    policy = FlowPolicy(make().config)
    with pytest.raises(ValueError, match="lerobot-train can resume that training"):
        policy.forward(pixels(make_batch()))


@pytest.mark.slow
def test_lerobot_eval_opens_it_and_agrees_with_evaluate(tmp_path):
    """In a process of its own, which knows the policy as a plugin alone."""
    policy = make(relative=False)
    policy.chunk_mean[:], policy.chunk_std[:] = torch.tensor([419.0, 286.0]), 5.0  # right through the T
    folder = save(policy, tmp_path / "policy")
    command = [sys.executable, "-m", "lerobot.scripts.lerobot_eval", f"--policy.path={folder}"]
    command += [*EVALUATION, KEYPOINTS_ENV, f"--output_dir={tmp_path / 'lerobot'}"]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert_evaluate_agrees(folder, tmp_path, load_json(tmp_path / "lerobot" / "eval_info.json")["overall"])
