"""The flow-matching policy of `act/flow.py` as a kind of policy."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE
from lerobot.utils.random_utils import set_seed
from torch import nn

from act.flow import FlowConfig, FlowPolicy
from act.kinds import Batch, PlainKind, lerobot_settings
from act.optimizer import OptimizerConfig
from common.bounds import Between, Depth, Horizon, NotNegative, Several, Width
from common.errors import UserError


@dataclass(frozen=True)
class PolicyConfig:
    """A small flow-matching policy, for numbers."""

    type: Literal["flow"] = field(default="flow", kw_only=True)  # kind of policy, see act/kinds/
    inputs: tuple[str, ...] = ()  # dataset features; none: observation.state and .environment_state
    chunk_size: Horizon = 16  # environment steps that it predicts
    n_action_steps: Horizon = 8  # of those are played before it looks again
    relative: bool = True  # actions are where to go, in the units of observation.state's first numbers
    hidden_size: Width = 256  # of the network
    n_layers: Depth = 3  # residual blocks of the network
    n_frequencies: Annotated[int, Between(1, 16)] = 4  # 1/2, 1, 2, ... periods over the flow's time
    num_inference_steps: Several = 5  # Euler steps from noise to a chunk
    noise_std: NotNegative = 0.0  # lerobot-eval's noise: 0 plays the mean one, 1 all that it learnt
    do_mask_loss_for_padding: bool = False  # learn nothing of the last action, repeated beyond the end

    def validate(self) -> None:
        if self.n_action_steps > self.chunk_size:
            raise ValueError(
                f"n_action_steps must be at most chunk_size, {self.chunk_size}, got {self.n_action_steps}"
            )


def choose_inputs(available: dict[str, PolicyFeature], wanted: tuple[str, ...]) -> dict[str, PolicyFeature]:
    """The features of a dataset that the policy looks at.

    Raises:
        UserError: the dataset lacks one, or it is a picture.
    """
    names = wanted or tuple(name for name in (OBS_STATE, OBS_ENV_STATE) if name in available)
    for name in names:
        if name not in available:
            raise UserError(f"the dataset has no {name}, it has {', '.join(available)}")
        if available[name].type not in (FeatureType.STATE, FeatureType.ENV):
            raise UserError(f"a flow policy cannot look at {name}: it looks at numbers, not at pictures")
    has_pictures = any(feature.type is FeatureType.VISUAL for feature in available.values())
    if not names or (not wanted and has_pictures and OBS_ENV_STATE not in names):
        raise UserError(
            f"a flow policy looks at numbers, not at pictures, and this dataset has no {OBS_ENV_STATE}: "
            "record numbers, or name what it is to see in policy.inputs"
        )
    return {name: available[name] for name in names}


class Loss(nn.Module):
    """`FlowPolicy.loss` as the learner calls it, (1,)."""

    def __init__(self, policy: FlowPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Batch, num_valid: torch.Tensor, batch_size: int) -> torch.Tensor:
        return self.policy.loss(batch, num_valid, batch_size)[None]


class Flow(PlainKind):
    """The kind: see `act.kinds.Kind`."""

    title = "flow policy"
    settings = PolicyConfig
    needed = ()
    metrics = ("Loss/flow",)

    def make_config(
        self,
        settings: PolicyConfig,
        features: dict[str, PolicyFeature],
        optimizer: OptimizerConfig,
        device: str,
    ) -> FlowConfig:
        config = FlowConfig(
            **lerobot_settings(settings),
            input_features=choose_inputs(features, settings.inputs),
            output_features={ACTION: features[ACTION]},
            device=device,
            push_to_hub=False,
            optimizer_lr=optimizer.lr,
            optimizer_weight_decay=optimizer.weight_decay,
        )
        try:
            config.validate_features()
        except ValueError as error:
            raise UserError(f"policy.{error}") from None
        return config

    def make_policy(
        self, config: FlowConfig, settings: Any, seed: int, saved: dict[str, Any] | None
    ) -> tuple[FlowPolicy, str]:
        set_seed(seed)
        return FlowPolicy(config), f"chunks {'relative to the state' if config.relative else 'as they are'}"

    def measure_data(self, policy: FlowPolicy, batches: Iterable[Batch]) -> None:
        policy.measure(batches)

    def least_size(self, config: FlowConfig) -> tuple[int, int, int]:
        """The matrices; per sample the activations of the blocks."""
        ends = sum(math.prod(feature.shape) for feature in (config.input_features or {}).values())
        ends += 2 * math.prod(config.noise_shape)
        blocks, size = 2 * config.n_layers, config.hidden_size
        weights = size * (blocks * size + ends)
        return weights, weights, 2 * blocks * size

    def open_policy(self, config: FlowConfig) -> FlowPolicy:
        return FlowPolicy(config)

    def make_loss(self, policy: FlowPolicy) -> Loss:
        return Loss(policy)

    def noise_shape(self, config: FlowConfig) -> tuple[int, ...]:
        return config.noise_shape

    def chunks(self, policy: FlowPolicy, inputs: Batch, noise: torch.Tensor | None = None) -> torch.Tensor:
        return policy.predict_action_chunk(inputs, noise)


KIND = Flow()
