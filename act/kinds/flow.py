"""The flow-matching policy of `act/flow.py` as a kind of policy."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import torch
from lerobot.configs.types import PolicyFeature
from lerobot.utils.constants import ACTION
from lerobot.utils.random_utils import set_seed
from torch import nn

from act.flow import FlowConfig, FlowPolicy
from act.inputs import choose_inputs
from act.kinds import Batch, PlainKind, check_n_action_steps, lerobot_settings
from act.optimizer import OptimizerConfig
from act.pictures import map_sides
from common.bounds import Between, Depth, Horizon, NotNegative, Several, Width, Widths
from common.errors import UserError


@dataclass(frozen=True)
class PolicyConfig:
    """A small flow-matching policy, for numbers and small pictures."""

    type: Literal["flow"] = field(default="flow", kw_only=True)  # kind of policy, see act/kinds/
    inputs: tuple[str, ...] = ()  # dataset features; none: cameras and observation.state, or all states
    chunk_size: Horizon = 16  # environment steps that it predicts
    n_action_steps: Horizon = 8  # of those are played before it looks again
    relative: bool = True  # predict actions minus observation.state's first numbers, both in one unit
    hidden_size: Width = 256  # of the network
    n_layers: Depth = 3  # residual blocks of the network
    n_frequencies: Annotated[int, Between(1, 16)] = 4  # 1/2, 1, 2, ... periods over the flow's time
    num_inference_steps: Several = 5  # Euler steps from noise to a chunk
    noise_std: NotNegative = 0.0  # std of the noise that lerobot-eval draws; 0: deterministic, 1: as trained
    filters: Widths = (32, 48, 64)  # of the convolutions that see pictures: of patches, then of 3 x 3 places
    patch_size: Width = 4  # side of the patches in pixels; divides the pictures' sides
    do_mask_loss_for_padding: bool = False  # learn nothing of the last action, repeated beyond the end

    # Not used: policies from before there were these settings see no pictures.
    IF_ABSENT: ClassVar = {"filters": [32, 48, 64], "patch_size": 4}

    def validate(self) -> None:
        check_n_action_steps(self)
        if not self.filters:
            raise ValueError(f"filters must be one or more, got {self.filters}")


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
            input_features=choose_inputs(features, settings.inputs, f"a {self.title}", state_suffices=True),
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
        """The matrices and convolutions; per sample the activations of the blocks, and the maps."""
        config.validate_features()  # a stranger's pictures may have any shape
        cameras, filters = config.image_features.values(), config.filters
        ends = sum(math.prod(feature.shape) for feature in config.numbers.values())
        ends += 2 * filters[-1] * len(cameras) + 2 * math.prod(config.noise_shape)
        blocks, size = 2 * config.n_layers, config.hidden_size
        weights, kept = size * (blocks * size + ends), 2 * blocks * size
        for shape in (camera.shape for camera in cameras):
            weights += filters[0] * shape[0] * config.patch_size**2
            weights += 9 * sum(inner * outer for inner, outer in pairwise(filters))
            sides = map_sides(shape, filters, config.patch_size)
            kept += sum(size * math.prod(side) for size, side in zip(filters, sides, strict=True))
        return weights, weights, kept

    def open_policy(self, config: FlowConfig) -> FlowPolicy:
        return FlowPolicy(config)

    def make_loss(self, policy: FlowPolicy) -> Loss:
        return Loss(policy)

    def noise_shape(self, config: FlowConfig) -> tuple[int, ...]:
        return config.noise_shape

    def chunks(self, policy: FlowPolicy, inputs: Batch, noise: torch.Tensor | None = None) -> torch.Tensor:
        return policy.predict_action_chunk(inputs, noise)


KIND = Flow()
