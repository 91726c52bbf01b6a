"""LeRobot's Diffusion Policy as a kind of policy, sampled with DDIM.

Chi et al. 2023, "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion" (arXiv 2303.04137); Song
et al. 2021, "Denoising Diffusion Implicit Models" (arXiv 2010.02502). The network and the loss are
`lerobot.policies.diffusion` as they are. Deliberate differences from LeRobot's defaults:

* It predicts the clean chunk, not the noise (`prediction_type`): from noise 0 that plays better.
* It is played with DDIM, also where LeRobot would play it with DDPM, whose training is the same: a chunk is
  then a function of its first noise, which can be chosen.
* Numbers are normalised by mean and standard deviation, environment states too: a mirrored dataset reaches
  beyond the smallest and largest value of the recorded one.
* An episode's last frames are learnt from, and from scratch a ResNet has group norms.
"""

import math
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

import diffusers  # noqa: F401  LeRobot misses it only when a policy is built
import torch
from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.policies.diffusion.configuration_diffusion import DiffusionConfig
from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES
from lerobot.utils.random_utils import set_seed
from torch import nn

from act.inputs import choose_inputs
from act.kinds import FEATURE_TYPES, Batch, PlainKind, lerobot_settings
from act.optimizer import OptimizerConfig
from common.bounds import Between, Horizon, Several, Width, Widths
from common.errors import UserError

# Pixels of a side: a ResNet's map of a smaller picture is 1 x 1, and its spatial softmax constant.
BLIND_BELOW = 33
CLIPPED_AT = 5.0  # standard deviations: of a chunk while it is denoised
LARGEST_PICTURE = 2_048  # pixels of a side, of what a foreign policy may resize or crop to


@dataclass(frozen=True)
class PolicyConfig:
    """A diffusion policy, under LeRobot's names; smaller than its default, which is made for a GPU."""

    type: Literal["diffusion"] = field(default="diffusion", kw_only=True)  # kind of policy, see act/kinds/
    inputs: tuple[str, ...] = ()  # dataset features; none: cameras and observation.state, or all states
    n_obs_steps: Annotated[int, Between(1, 16)] = 2  # latest observations that it sees
    horizon: Horizon = 16  # environment steps that it predicts, from the first of those observations on
    n_action_steps: Horizon = 8  # of those are played before it looks again
    down_dims: Widths = (64, 128)  # channels of the U-Net, each level at half of the time steps
    kernel_size: Annotated[int, Between(1, 63)] = 5  # of its convolutions over time
    n_groups: Width = 8  # of its group norms; they divide each of down_dims
    diffusion_step_embed_dim: Annotated[int, Between(4, 1_024)] = 128  # of the denoising step's number
    use_film_scale_modulation: bool = True  # what it sees scales and shifts; False: it shifts
    prediction_type: Literal["sample", "epsilon"] = "sample"  # predicts the clean chunk, or the noise in it
    num_train_timesteps: Several = 100  # levels of noise that it learns to remove
    num_inference_steps: Annotated[int | None, Between(1, 1_000)] = 10  # denoising steps; None: all levels
    vision_backbone: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"  # of each camera
    spatial_softmax_num_keypoints: Several = 32  # points that it finds in a picture
    do_mask_loss_for_padding: bool = False  # learn nothing of the last action, repeated beyond the end

    IF_ABSENT: ClassVar = {"prediction_type": "epsilon"}

    def validate(self) -> None:
        if self.n_obs_steps > self.horizon:
            raise ValueError(f"n_obs_steps must be at most horizon, {self.horizon}, got {self.n_obs_steps}")
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
        if self.diffusion_step_embed_dim % 2:
            raise ValueError(f"diffusion_step_embed_dim must be even, got {self.diffusion_step_embed_dim}")
        if (self.num_inference_steps or 1) > self.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps must be at most num_train_timesteps, {self.num_train_timesteps}, "
                f"got {self.num_inference_steps}"
            )


class Loss(nn.Module):
    """LeRobot's: the mean squared error of the chunk, or of the noise that was added to it, (1,)."""

    def __init__(self, policy: DiffusionPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Batch, num_valid: torch.Tensor, batch_size: int) -> torch.Tensor:
        mean = self.policy.diffusion.compute_loss(_with_pictures(self.policy.config, batch))
        share = len(batch[ACTION]) / batch_size
        if self.policy.config.do_mask_loss_for_padding:
            share = (~batch["action_is_pad"]).sum() * batch[ACTION].shape[2] / num_valid
        return (share * mean)[None]


class Diffusion(PlainKind):
    """The kind: see `act.kinds.Kind`."""

    title = "diffusion policy"
    settings = PolicyConfig
    needed = (  # whose defaults would play it wrongly, without a word
        *("beta_schedule", "beta_start", "beta_end", "clip_sample", "clip_sample_range"),
        *("resize_shape", "crop_ratio", "crop_shape", "use_group_norm"),
        *("use_separate_rgb_encoder_per_camera", "normalization_mapping"),
    )
    metrics = ("Loss/diffusion",)

    def make_config(
        self,
        settings: PolicyConfig,
        features: dict[str, PolicyFeature],
        optimizer: OptimizerConfig,
        device: str,
    ) -> DiffusionConfig:
        config = DiffusionConfig(
            **lerobot_settings(settings),
            input_features=choose_inputs(features, settings.inputs, f"a {self.title}"),
            output_features={ACTION: features[ACTION]},
            normalization_mapping=dict.fromkeys(FEATURE_TYPES, NormalizationMode.MEAN_STD),
            clip_sample_range=CLIPPED_AT,
            noise_scheduler_type="DDIM",
            pretrained_backbone_weights=None,
            use_group_norm=True,
            drop_n_last_frames=0,
            device=device,
            push_to_hub=False,
            optimizer_lr=optimizer.lr,
            optimizer_weight_decay=optimizer.weight_decay,
        )
        try:
            config.validate_features()
        except ValueError as error:
            raise UserError(f"policy.inputs: {error}") from None
        for name, shown in config.image_features.items():
            if max(shown.shape[1:]) < BLIND_BELOW:
                raise UserError(
                    f"a {self.title} is blind to {name}, {shown.shape[2]} x {shown.shape[1]} pixels: "
                    f"it needs {BLIND_BELOW} or more"
                )
        return config

    def make_policy(
        self, config: DiffusionConfig, settings: Any, seed: int, saved: dict[str, Any] | None
    ) -> tuple[DiffusionPolicy, str]:
        set_seed(seed)
        steps = config.num_inference_steps or config.num_train_timesteps
        return self.open_policy(config), f"played in {steps} steps of DDIM"

    def least_size(self, config: DiffusionConfig) -> tuple[int, int, int]:
        """The U-Net's convolutions and what conditions them; per sample the first level's activations."""
        assert config.action_feature
        seen = 2 * config.spatial_softmax_num_keypoints * len(config.image_features)
        seen += sum(
            math.prod(shown.shape) for shown in (config.input_features or {}).values() if _flat(shown)
        )
        seen = config.n_obs_steps * seen + config.diffusion_step_embed_dim

        def block(inner: int, outer: int) -> int:
            return outer * (config.kernel_size * (inner + outer) + seen)

        dims = config.down_dims or (1,)
        weights = 2 * block(dims[-1], dims[-1]) + 8 * config.diffusion_step_embed_dim**2
        weights += sum(
            block(a, b) + block(b, b) for a, b in pairwise((config.action_feature.shape[0], *dims))
        )
        weights += sum(block(2 * b, a) + block(a, a) for a, b in pairwise(dims))
        return weights, weights, 4 * config.horizon * dims[0]

    def open_policy(self, config: DiffusionConfig) -> DiffusionPolicy:
        config.pretrained_backbone_weights = None  # or LeRobot downloads them
        config.noise_scheduler_type, config.compile_model = "DDIM", False
        if not config.down_dims or not config.clip_sample_range > 0:
            raise ValueError(
                "down_dims must name channels and clip_sample_range be positive, "
                f"got {config.down_dims} and {config.clip_sample_range}"
            )
        if (config.num_inference_steps or 1) > config.num_train_timesteps:
            raise ValueError(
                f"num_inference_steps must be at most num_train_timesteps, {config.num_train_timesteps}, "
                f"got {config.num_inference_steps}"
            )
        if max((*(config.resize_shape or ()), *(config.crop_shape or ())), default=0) > LARGEST_PICTURE:
            raise ValueError(
                f"resize_shape and crop_shape must be at most {LARGEST_PICTURE} pixels, "
                f"got {config.resize_shape} and {config.crop_shape}"
            )
        return DiffusionPolicy(config)

    def make_loss(self, policy: DiffusionPolicy) -> Loss:
        return Loss(policy)

    def noise_shape(self, config: DiffusionConfig) -> tuple[int, int]:
        """(horizon, A): what the first step denoises."""
        assert config.action_feature
        return config.horizon, config.action_feature.shape[0]

    def chunks(
        self, policy: DiffusionPolicy, inputs: Batch, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        config, model = policy.config, policy.diffusion
        seen = model._prepare_global_conditioning(_with_pictures(config, inputs))
        chunks = model.conditional_sample(len(seen), global_cond=seen, noise=noise)
        return chunks[:, config.n_obs_steps - 1 :]


def _flat(feature: PolicyFeature) -> bool:
    return len(feature.shape) == 1


def _with_pictures(config: DiffusionConfig, batch: Batch) -> Batch:
    """A batch with its cameras side by side, (B, n_obs_steps, cameras, 3, H, W), for LeRobot's model."""
    if not config.image_features:
        return batch
    return batch | {OBS_IMAGES: torch.stack([batch[name] for name in config.image_features], dim=2)}


KIND = Diffusion()
