"""LeRobot's Diffusion Policy as a kind of policy, sampled with DDIM.

Chi et al. 2023, "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion" (arXiv 2303.04137); Song
et al. 2021, "Denoising Diffusion Implicit Models" (arXiv 2010.02502). The network is
`lerobot.policies.diffusion` as it is. With DDIM a chunk is a function of its first noise, which can be
chosen; DDPM, LeRobot's default, draws more in every step. Deliberate differences from LeRobot's defaults:

* environment states are normalised too, and an episode's last frames are learnt from.
* from scratch, a ResNet has group norms.
* a policy that samples with DDPM draws from a generator that the observation seeds, so it can be repeated.
"""

import math
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES
from lerobot.utils.random_utils import set_seed
from torch import nn

from act.inputs import choose_inputs
from act.kinds import Batch
from act.optimizer import OptimizerConfig
from common.bounds import Between, Horizon, Several, Width, Widths

TITLE = "a diffusion policy"


@dataclass(frozen=True)
class PolicyConfig:
    """A diffusion policy, under LeRobot's names; smaller than its default, which is made for a GPU."""

    type: Literal["diffusion"] = field(default="diffusion", kw_only=True)  # kind of policy, see act/kinds/
    inputs: tuple[str, ...] = ()  # dataset features; none: cameras and observation.state, or all states
    n_obs_steps: Annotated[int, Between(1, 16)] = 2  # observations that it sees; 1: it can be steered
    horizon: Horizon = 16  # environment steps that it predicts, from the first of those observations on
    n_action_steps: Horizon = 8  # of those are played before it looks again
    down_dims: Widths = (64, 128)  # channels of the U-Net, each level at half of the time steps
    kernel_size: Annotated[int, Between(1, 63)] = 5  # of its convolutions over time
    n_groups: Width = 8  # of its group norms; they divide each of down_dims
    diffusion_step_embed_dim: Width = 128  # of the denoising step's number
    use_film_scale_modulation: bool = True  # what it sees scales and shifts; False: it shifts
    noise_scheduler_type: Literal["DDIM", "DDPM"] = "DDIM"  # how it samples; with DDPM it cannot be steered
    num_train_timesteps: Several = 100  # levels of noise that it learns to remove
    num_inference_steps: Annotated[int | None, Between(1, 1_000)] = 8  # in which it does; None: all
    vision_backbone: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"  # of each camera
    spatial_softmax_num_keypoints: Several = 32  # points that it finds in a picture
    do_mask_loss_for_padding: bool = False  # learn nothing of the last action, repeated beyond the end

    def validate(self) -> None:
        played = self.horizon - self.n_obs_steps + 1
        if self.n_action_steps > played:
            raise ValueError(
                f"n_action_steps must be at most {played}, horizon - n_obs_steps + 1, "
                f"got {self.n_action_steps}"
            )
        if not self.down_dims or any(width % self.n_groups for width in self.down_dims):
            raise ValueError(
                f"down_dims must be multiples of n_groups, {self.n_groups}, got {self.down_dims}"
            )
        if self.horizon % 2 ** len(self.down_dims):
            raise ValueError(
                f"horizon must be a multiple of {2 ** len(self.down_dims)}, halved by each of down_dims, "
                f"got {self.horizon}"
            )
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")
        if self.diffusion_step_embed_dim < 4 or self.diffusion_step_embed_dim % 2:
            raise ValueError(
                f"diffusion_step_embed_dim must be even and at least 4, got {self.diffusion_step_embed_dim}"
            )
        if (self.num_inference_steps or 1) > self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps must be at most num_train_timesteps, {self.num_train_timesteps}, "
                f"got {self.num_inference_steps}"
            )


class Loss(nn.Module):
    """LeRobot's: the mean squared error of the noise that was added to a chunk, (1,)."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Batch, num_valid: torch.Tensor, batch_size: int) -> torch.Tensor:
        mean = self.policy.diffusion.compute_loss(_with_pictures(self.policy.config, batch))
        share = len(batch[ACTION]) / batch_size
        if self.policy.config.do_mask_loss_for_padding:
            share = (~batch["action_is_pad"]).sum() * batch[ACTION].shape[2] / num_valid
        return (share * mean)[None]


class Diffusion:
    """The kind: see `act.kinds.Kind`."""

    title = "diffusion policy"
    settings = PolicyConfig
    metrics = ("Loss/diffusion",)

    def make_config(
        self,
        settings: PolicyConfig,
        features: dict[str, PolicyFeature],
        optimizer: OptimizerConfig,
        device: str,
    ) -> DiffusionConfig:
        names = [field.name for field in fields(settings) if field.name not in ("type", "inputs")]
        modes = dict.fromkeys(("STATE", "ENV", "ACTION"), NormalizationMode.MIN_MAX)
        return DiffusionConfig(
            **{name: getattr(settings, name) for name in names},
            input_features=choose_inputs(features, settings.inputs, TITLE),
            output_features={ACTION: features[ACTION]},
            normalization_mapping=modes | {"VISUAL": NormalizationMode.MEAN_STD},
            pretrained_backbone_weights=None,
            use_group_norm=True,
            drop_n_last_frames=0,
            device=device,
            push_to_hub=False,
            optimizer_lr=optimizer.lr,
            optimizer_weight_decay=optimizer.weight_decay,
        )

    def make_policy(
        self, config: DiffusionConfig, settings: Any, seed: int, saved: dict[str, Any] | None
    ) -> tuple[DiffusionPolicy, str]:
        set_seed(seed)
        return self.open_policy(config), f"{config.noise_scheduler_type} of {_inference_steps(config)} steps"

    def measure_data(self, policy: DiffusionPolicy, batches: Iterable[Batch]) -> None:
        """LeRobot's processors know it."""

    def least_size(self, config: DiffusionConfig) -> tuple[int, int]:
        """The U-Net's convolutions and what conditions them; per sample the first level's activations."""
        assert config.action_feature
        seen = 2 * config.spatial_softmax_num_keypoints * len(config.image_features)
        seen += sum(
            math.prod(shown.shape) for shown in (config.input_features or {}).values() if _flat(shown)
        )
        seen = config.n_obs_steps * seen + config.diffusion_step_embed_dim

        def block(inner: int, outer: int) -> int:
            return outer * (config.kernel_size * (inner + outer) + seen)

        dims = config.down_dims
        weights = 2 * block(dims[-1], dims[-1])
        weights += sum(
            block(a, b) + block(b, b) for a, b in pairwise((config.action_feature.shape[0], *dims))
        )
        weights += sum(block(2 * b, a) + block(a, a) for a, b in pairwise(dims))
        return weights, 4 * config.horizon * dims[0]

    def open_policy(self, config: DiffusionConfig) -> DiffusionPolicy:
        config.pretrained_backbone_weights = None  # or LeRobot downloads them
        return DiffusionPolicy(config)

    def make_loss(self, policy: DiffusionPolicy) -> Loss:
        return Loss(policy)

    def speed_up(self, policy: DiffusionPolicy) -> None:
        """There is nothing to."""

    def noise_shape(self, config: DiffusionConfig) -> tuple[int, int] | None:
        """(horizon, A): what the first step denoises. DDPM draws more in every step."""
        assert config.action_feature
        if config.noise_scheduler_type == "DDPM":
            return None
        return config.horizon, config.action_feature.shape[0]

    def chunks(
        self, policy: DiffusionPolicy, inputs: Batch, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        config, model = policy.config, policy.diffusion
        seen = model._prepare_global_conditioning(_with_pictures(config, inputs))
        generators: Any = None
        if noise is None:
            generators = [_seeded_by(row) for row in seen]
            assert config.action_feature
            shape = config.horizon, config.action_feature.shape[0]
            noise = torch.stack([torch.randn(shape, generator=each) for each in generators]).to(seen)
        chunks = model.conditional_sample(len(seen), seen, generators, noise)
        return chunks[:, config.n_obs_steps - 1 :]

    def export(self, policy: DiffusionPolicy) -> DiffusionPolicy:
        return policy

    def smallest_batch(self, policy: DiffusionPolicy) -> int:
        return 1

    def measure_norms(self, policy: DiffusionPolicy, batches: Iterable[Batch]) -> None:
        """From scratch it has group norms; those of another's ResNet stay as they are."""


def _flat(feature: PolicyFeature) -> bool:
    return len(feature.shape) == 1


def _inference_steps(config: DiffusionConfig) -> int:
    return config.num_inference_steps or config.num_train_timesteps


def _with_pictures(config: DiffusionConfig, batch: Batch) -> Batch:
    """A batch with its cameras side by side, (B, n_obs_steps, cameras, 3, H, W), for LeRobot's model."""
    if not config.image_features:
        return batch
    return batch | {OBS_IMAGES: torch.stack([batch[name] for name in config.image_features], dim=2)}


def _seeded_by(row: torch.Tensor) -> torch.Generator:
    """A generator that is a function of what is seen alone."""
    return torch.Generator().manual_seed(zlib.crc32(row.cpu().numpy().tobytes()))


KIND = Diffusion()
