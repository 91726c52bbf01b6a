"""Loss, batch norms, the ResNet's first weights: against LeRobot's and PyTorch's own."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from torchvision.models import resnet18
from torchvision.ops.misc import FrozenBatchNorm2d

from act.backbone import freeze_batch_norms, load_imagenet
from act.kinds.act import (
    KIND,
    Loss,
    PolicyConfig,
    act_config,
    build_policy,
    skip_attention_weights,
)
from common.config import from_dict, to_dict
from common.errors import UserError
from tests.act.checks import assert_losses_add_up
from tests.act.tiny import CHUNK, IMAGE, KEYPOINTS, SIZES, STATE, features, make_batch, num_valid

CONFIG = PolicyConfig(chunk_size=CHUNK, n_action_steps=2, **SIZES)


def terms(*inputs: str, **changes) -> ACTConfig:
    return act_config(replace(CONFIG, inputs=inputs, **changes), features(), device="cpu")


@pytest.mark.parametrize("use_vae", [True, False])
@pytest.mark.parametrize("inputs", [(STATE, KEYPOINTS), (STATE, IMAGE)])
def test_loss_is_lerobots(inputs, use_vae):
    policy, _ = build_policy(terms(*inputs, use_vae=use_vae), 1, "none", trains_norms=False)
    sample = make_batch()
    torch.manual_seed(2)
    theirs, parts = policy.train().forward(sample)
    torch.manual_seed(2)
    loss, l1, kl = Loss(policy)(sample, num_valid(sample), 6)
    assert loss.item() == pytest.approx(theirs.item(), rel=1e-6)
    assert l1.item() == pytest.approx(parts["l1_loss"], rel=1e-6)
    assert kl.item() == pytest.approx(parts.get("kld_loss", 0.0), rel=1e-6)


def test_losses_of_pieces_add_up():
    policy, _ = build_policy(terms(STATE, KEYPOINTS, use_vae=False, dropout=0.0), 1, "none")
    assert_losses_add_up(policy, make_batch())


def test_a_share_of_the_samples_is_trained_with_a_latent_of_zero():
    changes = {"dropout": 0.0, "latent_dropout": 0.25}
    config = terms(STATE, KEYPOINTS, **changes)
    settings = replace(CONFIG, **changes)
    policy, _ = KIND.make_policy(config, settings, seed=1, saved=None)
    batch = make_batch(400)
    with torch.no_grad():
        trained, _ = policy.train().model(batch)
        played = KIND.chunks(policy.eval(), batch)
        noisy = KIND.chunks(policy, batch, torch.ones(400, config.latent_dim))
    dropped = (trained - played).abs().amax((1, 2)) < 1e-5
    assert 60 < dropped.sum() < 140, "a quarter of 400; 40 is 4.6 standard deviations"
    assert ((noisy - played).abs().amax((1, 2)) > 1e-5).all(), "played with every latent"


def test_attention_is_the_same_without_returned_weights():
    policy, _ = build_policy(terms(STATE, KEYPOINTS), 1, "none")
    slim = deepcopy(policy)
    skip_attention_weights(slim)
    with torch.no_grad():
        theirs, slims = (p.eval().predict_action_chunk(make_batch()) for p in (policy, slim))
    torch.testing.assert_close(slims, theirs)
    assert slim.model.encoder.layers[0].self_attn._forward_pre_hooks


def test_trained_batch_norms_are_exported_as_frozen_ones():
    policy, words = build_policy(terms(STATE, IMAGE), 1, "none")
    assert words == "resnet18 from scratch, trained batch norms"
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    optimizer = torch.optim.SGD(policy.parameters(), 1e-3)
    for seed in range(3):
        sample = make_batch(seed=seed)
        Loss(policy.train())(sample, num_valid(sample), 6)[0].backward()
        optimizer.step()
    norms = [name for name in before if "bn1" in name and not name.endswith("num_batches_tracked")]
    assert {name.rpartition(".")[2] for name in norms} == {"weight", "bias", "running_mean", "running_var"}
    assert not any(torch.equal(before[name], policy.state_dict()[name]) for name in norms)

    generator = torch.get_rng_state()
    exported = freeze_batch_norms(policy)
    assert torch.equal(torch.get_rng_state(), generator), "saving must not change the training"
    assert exported.state_dict().keys() == ACTPolicy(policy.config).state_dict().keys()
    assert any(isinstance(module, FrozenBatchNorm2d) for module in exported.modules())
    with torch.no_grad():
        theirs, norms = (p.predict_action_chunk(make_batch(seed=9)) for p in (exported, policy.eval()))
    torch.testing.assert_close(theirs, norms)


def test_a_policy_without_trained_norms_is_exported_as_it_is():
    policy, _ = build_policy(terms(STATE, IMAGE), 1, "none", trains_norms=False)
    assert freeze_batch_norms(policy) is policy


def test_imagenet_weights_are_taken_from_the_disk(monkeypatch, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    weights = resnet18().state_dict()
    torch.save(weights, tmp_path / "checkpoints" / "resnet18-f37072fd.pth")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    policy, words = build_policy(terms(STATE, IMAGE), 1, "auto")
    assert words == "resnet18 of ImageNet, frozen batch norms"
    backbone = policy.model.backbone.state_dict()
    assert all(torch.equal(backbone[name], weights[name]) for name in backbone)
    assert policy.config.pretrained_backbone_weights is None, "or lerobot-eval would download them"


def test_imagenet_weights_that_cannot_be_had(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    policy, words = build_policy(terms(STATE, IMAGE), 1, "auto")
    assert words == "resnet18 from scratch, trained batch norms"
    with pytest.raises(UserError, match="resnet18-f37072fd.pth: not here, and https.* cannot be had"):
        load_imagenet(policy, "imagenet")
    assert not Path(tmp_path / "checkpoints").exists()


@pytest.mark.parametrize("content", [b"<html>sign in</html>", None], ids=["a page", "another network"])
@pytest.mark.parametrize("wanted", ["auto", "imagenet"])
def test_damaged_imagenet_weights_are_a_sentence(monkeypatch, tmp_path, wanted, content):
    """And not trained without, by somebody who believes that they are there."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir()
    file.write_bytes(content) if content else torch.save({"conv1.weight": torch.zeros(3)}, file)
    with pytest.raises(UserError, match="resnet18-f37072fd.pth: damaged, delete it"):
        build_policy(terms(STATE, IMAGE), 1, wanted)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_obs_steps": 2}, "n_obs_steps must be 1"),
        ({"n_action_steps": 6}, "n_action_steps must be at most chunk_size, 5"),
        ({"temporal_ensemble_coeff": 0.01}, "n_action_steps must be 1 with temporal_ensemble_coeff"),
        ({"n_heads": 3}, "dim_model must be a multiple of 4 and of n_heads, 3"),
        ({"latent_dim": 0}, "latent_dim must be at least 1"),
        ({"latent_dropout": 0.5, "use_vae": False}, "latent_dropout must be 0 without use_vae, got 0.5"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        from_dict(PolicyConfig, to_dict(replace(CONFIG, **changes)))


def test_every_setting_of_ours_is_lerobots_but_three():
    settings = terms(STATE, KEYPOINTS, kl_weight=3.0, n_decoder_layers=4, vision_backbone="resnet34")
    assert (settings.kl_weight, settings.n_decoder_layers, settings.vision_backbone) == (3.0, 4, "resnet34")
    theirs = ACTConfig()
    differing = {"inputs", "backbone_weights", "latent_dropout", "chunk_size", "n_action_steps"}
    for name, value in vars(PolicyConfig()).items():
        assert name in differing or getattr(theirs, name) == value, name
