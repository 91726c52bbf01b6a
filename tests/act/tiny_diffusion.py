"""A diffusion policy of random weights."""

from dataclasses import replace

from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy

from act.kinds import find_kind
from act.kinds.diffusion import PolicyConfig
from act.optimizer import OptimizerConfig
from tests.act.tiny import KEYPOINTS, STATE, features

KIND = find_kind("diffusion")
HORIZON, SIDE = 8, 40  # steps, pixels
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


def make(seed=1, **changes) -> DiffusionPolicy:
    settings = replace(SETTINGS, **changes)
    config = KIND.make_config(settings, features(SIDE), OptimizerConfig(), "cpu")
    return KIND.make_policy(config, settings, seed, None)[0].eval()
