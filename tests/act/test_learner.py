"""One update against the same written out with LeRobot's own parts; compiled or in micro-batches."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from lerobot.configs.default import DatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.optim.factory import make_optimizer_and_scheduler

from act.kinds.act import PolicyConfig, act_config, build_policy
from act.learner import Learner
from act.optimizer import OptimizerConfig
from common.errors import UserError
from tests.act.tiny import CHUNK, IMAGE, KEYPOINTS, SIZES, STATE, features, make_batch
from tests.adam import assert_same_weights, raise_epsilon

STEPS = 6
PLAIN = OptimizerConfig(lr=1e-3, lr_backbone=1e-2, warmup_steps=2, ema=0.0, precision="float32")
DECAYING = replace(PLAIN, weight_decay=1.0)  # so much that it shows


def batches(count: int = STEPS) -> list[dict[str, torch.Tensor]]:
    return [make_batch(8, seed) for seed in range(count)]


def make_learner(
    config: OptimizerConfig = PLAIN, image: bool = False, trains_norms: bool = False, **changes
) -> Learner:
    """Sees pictures, or else keypoints."""
    inputs = (STATE, IMAGE if image else KEYPOINTS)
    policy_config = PolicyConfig(inputs, chunk_size=CHUNK, n_action_steps=2, **(SIZES | changes))
    settings = {"optimizer_lr": config.lr, "optimizer_lr_backbone": config.lr_backbone}
    terms = TrainPipelineConfig(
        dataset=DatasetConfig(repo_id="x", video_backend="pyav"),
        policy=act_config(policy_config, features(), device="cpu", **settings),
        steps=STEPS,
        optimizer=config.lerobot_optimizer(),
        scheduler=config.lerobot_scheduler(STEPS),
    )
    policy, _ = build_policy(terms.policy, 1, "none", trains_norms)
    learner = Learner(policy, terms, config)
    learner.terms = terms
    return learner


@pytest.mark.parametrize(
    "schedule, image",
    [("cosine", False), ("constant", False), pytest.param("cosine", True, marks=pytest.mark.slow)],
)
def test_updates_are_lerobots(double_precision, schedule, image):
    learner = make_learner(replace(DECAYING, schedule=schedule), image)
    policy = deepcopy(learner.policy)
    optimizer, scheduler = make_optimizer_and_scheduler(learner.terms, policy)
    for batch in batches():
        torch.manual_seed(3)
        metrics = learner.update(batch)
        torch.manual_seed(3)
        loss, _ = policy.forward(batch)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(policy.parameters(), 10.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
        assert metrics[0].item() == pytest.approx(loss.item(), rel=1e-7)
        assert metrics[3].item() == pytest.approx(norm.item(), rel=1e-7)
        rates = [[group["lr"] for group in each.param_groups] for each in (optimizer, learner.optimizer)]
        assert rates[0] == rates[1]
        decays = {group["weight_decay"] for group in learner.optimizer.param_groups if group["params"]}
        assert rates[1][1] == pytest.approx(10 * rates[1][0]) and decays == {1.0}
    for (name, our), their in zip(learner.policy.named_parameters(), policy.parameters(), strict=True):
        torch.testing.assert_close(our, their, rtol=1e-7, atol=1e-8, msg=name)


@pytest.mark.parametrize(
    "changes", [{"micro_batches": 3}, pytest.param({"compile": True}, marks=pytest.mark.slow)]
)
def test_micro_batches_and_compilation_change_no_update(changes, captured, monkeypatch):
    raise_epsilon(monkeypatch)
    # Each draws its randomness in another order.
    monkeypatch.setattr(torch, "randn_like", lambda tensor: 0.0 * tensor)
    learners = [make_learner(config, dropout=0.0) for config in (PLAIN, replace(PLAIN, **changes))]
    for batch in batches(3):
        metrics = [learner.update(batch) for learner in learners]
        torch.testing.assert_close(*metrics, rtol=1e-5, atol=1e-6)
    assert_same_weights(*(learner.policy.state_dict() for learner in learners))


def test_micro_batches_are_refused_where_norms_look_at_the_whole_batch():
    split = replace(PLAIN, micro_batches=2)
    make_learner(split, image=True)
    with pytest.raises(UserError, match="optimizer.micro_batches must be 1 where batch norms are trained"):
        make_learner(split, image=True, trains_norms=True)


def test_bfloat16_is_near_and_not_the_same():
    losses = [make_learner(replace(PLAIN, precision=p)).update(make_batch(8))[0] for p in ("float32", "bf16")]
    assert losses[0] != losses[1] and losses[1].dtype == torch.float32
    torch.testing.assert_close(*losses, rtol=0.05, atol=0.0)


@pytest.mark.slow
def test_the_average_follows_the_weights():
    learner = make_learner(replace(PLAIN, ema=0.5), image=True, trains_norms=True)
    expected = {name: p.detach().clone() for name, p in learner.policy.named_parameters()}
    for step, batch in enumerate(batches(), 1):
        learner.update(batch)
        decay = min(0.5, (1 + step) / (10 + step))
        for name, parameter in learner.policy.named_parameters():
            expected[name] = decay * expected[name] + (1 - decay) * parameter.detach()
    for name, average in learner.averaged.named_parameters():
        torch.testing.assert_close(average, expected[name], rtol=1e-5, atol=1e-7, msg=name)
    assert not learner.averaged.training and learner.policy.training


@pytest.mark.slow
def test_the_averages_batch_norms_have_the_statistics_of_what_they_see():
    learner = make_learner(replace(PLAIN, ema=0.5), image=True, trains_norms=True)
    for batch in batches():
        learner.update(batch)
    learner.measure_norms(batches(2))
    assert not any(module.training for module in learner.averaged.modules())

    seen = {}
    backbone = deepcopy(learner.averaged.model.backbone).train()
    for name, module in backbone.named_modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda _, x, name=name: seen.setdefault(name, []).append(x[0]))
    for batch in batches(2):
        backbone(batch[IMAGE])
    measured = dict(learner.averaged.model.backbone.named_modules())
    assert len(seen) == 20
    for name, activations in seen.items():
        mean = torch.stack([x.mean((0, 2, 3)) for x in activations]).mean(0)
        var = torch.stack([x.var((0, 2, 3)) for x in activations]).mean(0)
        torch.testing.assert_close(measured[name].running_mean, mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(measured[name].running_var, var, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("trains_norms", [False, True])
def test_moments_come_back(trains_norms):
    learner, other = (make_learner(image=True, trains_norms=trains_norms) for _ in range(2))
    for batch in batches(3):
        learner.update(batch)
    lerobot, norms = deepcopy(learner.moments())
    assert bool(norms) == trains_norms
    frozen = make_learner(image=True)
    theirs = [p.shape for group in frozen.policy.get_optim_params() for p in group["params"]]
    assert [moments["exp_avg"].shape for moments in lerobot["state"].values()] == theirs
    other.policy.load_state_dict(learner.policy.state_dict())
    other.load_moments(lerobot, norms)
    other.continue_at(learner.step)
    for batch in batches()[3:]:
        for each in (learner, other):
            torch.manual_seed(4)
            each.update(batch)
    for ours, theirs in zip(learner.policy.parameters(), other.policy.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_moments_of_another_policy_are_refused():
    lerobot, norms = make_learner().moments()
    lerobot["state"] = {0: {}}
    with pytest.raises(ValueError, match="moments of 1 tensors, not of"):
        make_learner().load_moments(lerobot, norms)
