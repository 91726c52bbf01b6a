"""An ACT of random weights."""

from lerobot.policies.act.modeling_act import ACTPolicy

from act.kinds.act import PolicyConfig, act_config, build_policy
from tests.act.tiny import KEYPOINTS, SIZES, STATE, features

FEATURES = features(side=96)


def make(inputs=(STATE, KEYPOINTS), available=FEATURES, n_action_steps=3, **changes) -> ACTPolicy:
    config = PolicyConfig(inputs, chunk_size=6, n_action_steps=n_action_steps, **(SIZES | changes))
    policy, _ = build_policy(act_config(config, available, device="cpu"), 1, "none", trains_norms=False)
    return policy.eval()
