"""A flow policy of random weights."""

from dataclasses import replace

import torch

from act.flow import FlowPolicy
from act.kinds import find_kind
from act.kinds.flow import PolicyConfig
from act.optimizer import OptimizerConfig
from tests.act.tiny import CHUNK, IMAGE, KEYPOINTS, STATE, features, make_batch

KIND = find_kind("flow")
SIDE, FILTERS = 32, (4, 6, 5)  # pixels
SETTINGS = PolicyConfig(
    inputs=(STATE, KEYPOINTS),
    chunk_size=CHUNK,
    n_action_steps=2,
    hidden_size=8,
    n_layers=2,
    num_inference_steps=3,
    filters=FILTERS,
)


def make(seed=1, **changes) -> FlowPolicy:
    """A policy of random weights that knows statistics of random data in pixels."""
    settings = replace(SETTINGS, **changes)
    config = KIND.make_config(settings, features(SIDE), OptimizerConfig(), "cpu")
    policy, _ = KIND.make_policy(config, settings, seed, None)
    KIND.measure_data(policy, [pixels(make_batch(64, seed=9))])
    return policy.eval()


def pixels(batch):
    """A batch in a dataset's units; pictures in [0, 1]."""
    numbers = {name: v if v.dtype == torch.bool else 250 + 100 * v for name, v in batch.items()}
    return numbers | {IMAGE: batch[IMAGE].sigmoid()}
