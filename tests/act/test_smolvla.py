"""SmolVLA against LeRobot's own, and its flow against the network as it is trained; its settings."""

import json

import numpy as np
import pytest
import torch

import act.vlm
import train_act
from act.kinds.act import PolicyConfig as ACTSettings
from act.opening import load_player
from act.optimizer import OptimizerConfig
from common.config import from_dict, load_yaml, to_dict
from common.errors import UserError
from common.paths import REPOSITORY
from common.untrusted import load_json, load_tensors
from envs.pusht.task import PushT
from tests.act.checks import (
    assert_losses_add_up,
    assert_plays_the_same_opened_again,
    assert_slots_play_as_lerobots_alone,
)
from tests.act.tiny import (
    CHUNK,
    IMAGE,
    KEYPOINTS,
    STATE,
    TASK,
    features,
    num_valid,
    observations,
    player_of,
    save,
)
from tests.act.tiny_vla import KIND, MASK, TOKENS, SmolVLAPolicy, make, make_vlm, noise, samples, settings


def inputs(batch):
    return {name: value for name, value in batch.items() if "action" not in name}


@pytest.mark.parametrize("all_trained", [True, False])
def test_loss_is_lerobots(vlm, all_trained):
    frozen = {"train_expert_only": not all_trained, "freeze_vision_encoder": not all_trained, "saved": {}}
    policy, batch = make(vlm, **frozen), samples()

    def loss(batch):
        torch.manual_seed(3)
        return KIND.make_loss(policy)(batch, num_valid(batch), 6)[0]

    torch.manual_seed(3)
    theirs, _ = policy.forward(batch)
    theirs.backward()
    gradients = {name: p.grad.clone() for name, p in policy.named_parameters() if p.grad is not None}
    policy.zero_grad()
    (ours := loss(batch)).backward()
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    assert gradients.keys() == trained and any("vision" in name for name in trained) == all_trained
    for name, p in policy.named_parameters():
        torch.testing.assert_close(p.grad, gradients.get(name), rtol=1e-4, atol=1e-7)
    for name, other in (
        (IMAGE, batch[IMAGE].flip(-1)),
        (TOKENS, batch[TOKENS].flip(1)),
        (STATE, -batch[STATE]),
    ):
        assert loss(batch | {name: other}).item() != pytest.approx(ours.item(), rel=1e-6), f"it sees {name}"
    unread = batch[TOKENS].where(batch[MASK], 0)
    assert loss(batch | {TOKENS: unread}).item() == pytest.approx(ours.item(), rel=1e-6), (
        "padding is not read"
    )


def test_losses_of_pieces_add_up(policy, monkeypatch):
    monkeypatch.setattr(policy.model, "sample_noise", lambda shape, _: torch.full(shape, 0.3))
    monkeypatch.setattr(policy.model, "sample_time", lambda size, _: torch.full((size,), 0.6))
    assert_losses_add_up(policy, samples())


def test_a_chunk_is_the_end_of_eulers_steps(policy):
    """By the network as it is trained, without the cache of what was seen: x is its own noise and actions."""
    batch, x = samples(), torch.from_numpy(noise(6)).float()
    slopes = []
    hook = policy.model.action_out_proj.register_forward_hook(lambda *args: slopes.append(args[2]))
    seen = (*policy.prepare_images(batch), batch[TOKENS], batch[MASK], policy.prepare_state(batch))
    with torch.no_grad():
        for time in (1.0, 2 / 3, 1 / 3):
            policy.model.forward(*seen, actions=x, noise=x, time=torch.full((6,), time))
            x = x - slopes[-1] / 3
    hook.remove()
    chunks = KIND.chunks(policy, inputs(batch), torch.from_numpy(noise(6)).float())
    torch.testing.assert_close(chunks, x[..., :2], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_slots_play_as_lerobots_policy_does_alone(policy):
    assert_slots_play_as_lerobots_alone(policy, side=32)


def test_it_hears_the_tasks_sentence(policy):
    other = player_of(policy)
    other.task = type("Other", (PushT,), {"sentence": "push the T away"})()
    raw = observations(side=32)
    assert np.abs(other.chunk(raw, noise()) - player_of(policy).chunk(raw, noise())).max() > 1e-3


@pytest.mark.slow
def test_saved_and_opened_again_it_plays_the_same(policy, tmp_path, capfd):
    assert_plays_the_same_opened_again(policy, tmp_path, side=32)
    capfd.readouterr()
    ours, raw = load_player(tmp_path, TASK), observations(side=32)
    assert capfd.readouterr().out == "", "what LeRobot prints of layers is no output of ours"
    assert ours.noise_shape == (CHUNK, 4)
    assert np.array_equal(ours.chunk(raw, noise()), ours.chunk(raw, noise())), "twice"
    player = load_player(tmp_path, TASK, sampled=True, seed=3)
    assert not np.allclose(player.act(raw), ours.act(raw))


def test_a_frozen_vlm_is_bfloat16_as_lerobots_and_the_expert_float32(vlm, tmp_path, monkeypatch):
    """With weights of its own, which our checkpoint holds and LeRobot opens first."""
    from transformers import AutoConfig, SmolVLMForConditionalGeneration

    make_vlm(whole := tmp_path / "whole")
    torch.manual_seed(0)
    SmolVLMForConditionalGeneration(AutoConfig.from_pretrained(whole)).save_pretrained(whole)
    for module in ("act.kinds.smolvla", "act.foreign"):  # such a folder is only the Hub's
        monkeypatch.setattr(f"{module}.read_sizes", lambda _: load_json(vlm / "config.json"))
    chosen = settings(vlm, train_expert_only=True, freeze_vision_encoder=True)
    config = KIND.make_config(chosen, features(), OptimizerConfig(), "cpu")
    config.vlm_model_name, config.load_vlm_weights = str(whole), True
    policy, origin = KIND.make_policy(config, chosen, 1, None)
    assert "its own weights" in origin and policy.config.load_vlm_weights
    dtypes = {n.split(".")[2]: p.dtype for n, p in policy.named_parameters() if "vlm_with_expert" in n}
    assert dtypes == {"vlm": torch.bfloat16, "lm_expert": torch.float32}
    own = load_tensors(whole / "model.safetensors")["model.text_model.embed_tokens.weight"]
    ours = policy.model.vlm_with_expert.get_vlm_model().text_model.embed_tokens.weight
    assert torch.equal(ours, own.bfloat16())

    folder, raw = save(policy, tmp_path / "policy"), observations(side=32)
    chunk = player_of(policy.eval()).chunk(raw, noise())
    theirs = player_of(SmolVLAPolicy.from_pretrained(folder)).chunk(raw, noise())
    np.testing.assert_allclose(theirs, chunk, atol=2.0)  # of 100 px: their expert is bfloat16
    (whole / "model.safetensors").unlink()
    assert np.array_equal(load_player(folder, TASK).chunk(raw, noise()), chunk), "without the VLM's weights"


def test_a_vlm_that_is_trained_is_float32(policy, vlm):
    """Also of a training of LeRobot's, which had loaded it in bfloat16."""
    config = KIND.make_config(settings(vlm), features(), OptimizerConfig(), "cpu")
    config.load_vlm_weights = True
    continued, origin = KIND.make_policy(config, ACTSettings(), 1, {})
    assert "of the checkpoint" in origin and not continued.config.load_vlm_weights
    assert {parameter.dtype for parameter in continued.parameters()} == {torch.float32}


def test_it_begins_with_the_weights_of_another(policy, vlm, tmp_path):
    """And its own data's statistics."""
    save(policy, tmp_path)
    frozen = {"train_expert_only": True, "freeze_vision_encoder": True, "pretrained": tmp_path}
    begun = make(vlm, seed=2, **frozen)
    for name, weights in policy.state_dict().items():
        assert torch.equal(begun.state_dict()[name], weights), name
    with pytest.raises(UserError, match="pretrained: .* has weights of another network than the settings'"):
        make(vlm, **frozen, max_action_dim=5)


# Settings


def test_it_has_at_least_the_weights_that_are_counted(vlm, tmp_path):
    deep = make_vlm(tmp_path / "deep", layers=4)
    for folder, changes in (
        (vlm, {}),
        (vlm, {"expert_width_multiplier": 2.0}),
        (deep, {"num_vlm_layers": 3}),
        (deep, {"num_expert_layers": 2, "self_attn_every_n_layers": -1}),
    ):
        policy = make(folder, **changes)
        counted, of_expert, _ = KIND.least_size(policy.config)
        built = sum(p.numel() for p in policy.parameters())
        expert = sum(p.numel() for p in policy.model.vlm_with_expert.lm_expert.parameters())
        assert 0.5 * built < counted < built and 0.5 * expert < of_expert < expert


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_action_steps": 6}, "n_action_steps must be at most chunk_size, 5, got 6"),
        ({"max_state_dim": 1}, "policy.max_state_dim must be at least 2, as many as there are, got 1"),
        ({"max_action_dim": 1}, "policy.max_action_dim must be at least 2, as many as there are, got 1"),
        (
            {"inputs": (STATE, KEYPOINTS)},
            f"policy.inputs must not have {KEYPOINTS}, which a SmolVLA cannot see",
        ),
        ({"inputs": (IMAGE,)}, f"policy.inputs must have {STATE}"),
        (
            {"expert_width_multiplier": 0.2},
            "policy.expert_width_multiplier must make an even number of 16, got 3",
        ),
        ({"num_expert_layers": 3}, "policy.num_expert_layers must divide 2, got 3"),
        ({"resize_imgs_with_padding": (16, 24)}, "must be two equal multiples of 8, got"),
        ({"resize_imgs_with_padding": (20, 20)}, "must be two equal multiples of 8, got"),
        ({"vlm_model_name": "no/where"}, "vlm_model_name must be HuggingFaceTB/.* or a folder that is there"),
        ({"load_vlm_weights": True}, "policy.load_vlm_weights must be false with a folder"),
        ({"train_expert_only": True}, "else a random vision-language model would stay random"),
        ({"freeze_vision_encoder": True}, "else a random vision-language model would stay random"),
    ],
)
def test_impossible_settings_are_refused(vlm, changes, message):
    with pytest.raises(UserError, match=message):
        from_dict(type(settings(vlm)), to_dict(settings(vlm, **changes)))
        make(vlm, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_expert_layers": 2}, "num_expert_layers must not be 2 with self_attn_every_n_layers 2"),
        ({"num_expert_layers": 1}, "num_expert_layers must be at least 2, half of the VLM's, unless"),
    ],
)
def test_layers_that_do_not_meet_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        make(make_vlm(tmp_path / "deep", layers=4), **changes)


def test_without_a_camera_it_is_not_trained(vlm):
    numbers = {name: feature for name, feature in features().items() if name != IMAGE}
    with pytest.raises(
        UserError, match="a SmolVLA looks at pictures, and it is to be trained without a camera"
    ):
        KIND.make_config(settings(vlm, inputs=()), numbers, OptimizerConfig(), "cpu")


@pytest.mark.parametrize("name", ["smolvla_pusht", "smolvla_pusht_tiny"])
def test_a_shipped_configuration_is_what_lerobot_is_asked_for(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    act.vlm.main([])
    written = load_yaml(path := REPOSITORY / "configs" / f"{name}.yaml")["policy"]
    chosen = train_act.read_config(["--config", str(path)])
    seen = features(side=96)
    made = KIND.make_config(chosen.policy, seen, chosen.optimizer, "cpu")
    if "vlm_model_name" in written:
        assert made.vlm_model_name == str(tmp_path / written.pop("vlm_model_name"))
        policy, _ = KIND.make_policy(made, chosen.policy, 1, None)
        assert sum(p.numel() for p in policy.parameters()) == 792_546
    assert json.loads(json.dumps({key: getattr(made, key) for key in written})) == written
    assert set(made.input_features) == {STATE, IMAGE} and made.optimizer_lr == chosen.optimizer.lr
