"""LeRobot's ACT as a kind of policy: its settings, its loss, its batch norms.

Zhao et al. 2023, "Learning Fine-Grained Bimanual Manipulation with Low-Cost Hardware" (arXiv 2304.13705). The
network is `lerobot.policies.act` as it is. What is different here changes no checkpoint and, but for trained
batch norms and dropped latents, no equation:

* `Loss` is `ACTPolicy.forward` without its two host syncs, and can be computed in micro-batches.
* The attention layers do not return their weights, which nobody reads: PyTorch's fast path.
* LeRobot's ResNet has frozen batch norms, which from scratch are none at all: see `act/backbone.py`.
* A share of the samples may be trained without their latent: see `drop_latents`.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lerobot.configs.types import NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.utils.constants import ACTION, OBS_IMAGES
from lerobot.utils.random_utils import set_seed
from torch import nn
from torch.optim.swa_utils import update_bn

from act.backbone import freeze_batch_norms, load_imagenet, train_batch_norms
from act.inputs import choose_inputs
from act.kinds import FEATURE_TYPES, Batch, check_n_action_steps, lerobot_settings
from act.optimizer import OptimizerConfig
from common.bounds import Depth, Horizon, NotNegative, ShareBelow1, Width


@dataclass(frozen=True)
class PolicyConfig:
    """ACT, under LeRobot's names; its defaults but for chunk_size and n_action_steps."""

    type: Literal["act"] = field(default="act", kw_only=True)  # kind of policy, see act/kinds/
    inputs: tuple[str, ...] = ()  # dataset features; none: cameras and observation.state, or all states
    n_obs_steps: int = 1  # observations that it sees; LeRobot's ACT accepts 1 only
    chunk_size: Horizon = 16  # environment steps that it predicts; LeRobot's 100 are 10 s at 10 Hz
    n_action_steps: Horizon = 8  # of those are played before it looks again
    temporal_ensemble_coeff: float | None = None  # average overlapping chunks; requires n_action_steps 1
    dim_model: Width = 512  # hidden size
    n_heads: Width = 8  # of each attention layer; they divide dim_model
    dim_feedforward: Width = 3200  # hidden size of the feed-forward layers
    feedforward_activation: Literal["relu", "gelu"] = "relu"  # of the feed-forward layers
    n_encoder_layers: Depth = 4  # of the transformer
    n_decoder_layers: Depth = 1  # of the transformer; 1 is what the authors' code does, though it says 7
    pre_norm: bool = False  # layer norms before each layer instead of after
    dropout: ShareBelow1 = 0.1  # in all transformers
    use_vae: bool = True  # encode the chunk into a latent while training
    latent_dim: Width = 32  # numbers in the latent
    latent_dropout: ShareBelow1 = 0.0  # of the samples, trained with a latent of 0: see `drop_latents`
    n_vae_encoder_layers: Depth = 4  # of the latent's encoder
    kl_weight: NotNegative = 10.0  # of the latent's divergence from a normal distribution, in the loss
    vision_backbone: Literal["resnet18", "resnet34", "resnet50"] = "resnet18"  # of each camera
    replace_final_stride_with_dilation: bool = False  # twice the resolution of what the ResNet returns
    backbone_weights: Literal["auto", "imagenet", "none"] = "auto"  # auto: ImageNet's if they can be had

    def validate(self) -> None:
        if self.n_obs_steps != 1:
            raise ValueError(f"n_obs_steps must be 1, all that LeRobot's ACT accepts, got {self.n_obs_steps}")
        check_n_action_steps(self)
        if self.temporal_ensemble_coeff is not None and self.n_action_steps != 1:
            raise ValueError(
                f"n_action_steps must be 1 with temporal_ensemble_coeff, got {self.n_action_steps}"
            )
        if self.latent_dropout and not self.use_vae:
            raise ValueError(f"latent_dropout must be 0 without use_vae, got {self.latent_dropout}")
        if self.dim_model % self.n_heads or self.dim_model % 4:
            raise ValueError(
                f"dim_model must be a multiple of 4 and of n_heads, {self.n_heads}, got {self.dim_model}"
            )


def act_config(config: PolicyConfig, features: dict[str, PolicyFeature], **others: Any) -> ACTConfig:
    """LeRobot's configuration of the policy that `config` describes.

    Args:
        features: of the dataset.
        others: settings of LeRobot's that are none of `PolicyConfig`'s.

    Raises:
        UserError: the features do not suit.
    """
    return ACTConfig(
        **lerobot_settings(config, "backbone_weights", "latent_dropout"),
        input_features=choose_inputs(features, config.inputs),
        output_features={ACTION: features[ACTION]},
        normalization_mapping=dict.fromkeys(FEATURE_TYPES, NormalizationMode.MEAN_STD),
        pretrained_backbone_weights=None,  # else LeRobot downloads them whenever the checkpoint is opened
        push_to_hub=False,
        **others,
    )


def build_policy(
    config: ACTConfig,
    seed: int,
    backbone_weights: Literal["auto", "imagenet", "none"],
    trains_norms: bool | None = None,
) -> tuple[ACTPolicy, str]:
    """A policy to train.

    Args:
        config: LeRobot's.
        seed: of its weights, and of everything that draws from the global generators from here on.
        backbone_weights: see `PolicyConfig`.
        trains_norms: of the policy that will be loaded into this one; None: there is none.

    Returns:
        the policy and, in words, what its ResNet begins with.
    """
    set_seed(seed)
    policy = ACTPolicy(config)
    if not config.image_features:
        return policy, "none"
    from_imagenet = trains_norms is None and load_imagenet(policy, backbone_weights)
    if trains_norms is None:
        trains_norms = not from_imagenet
        origin = "of ImageNet" if from_imagenet else "from scratch"
    else:
        origin = "of the checkpoint"
    if trains_norms:
        train_batch_norms(policy)
    return policy, f"{config.vision_backbone} {origin}, {'trained' if trains_norms else 'frozen'} batch norms"


class Loss(nn.Module):
    """The training loss, equation by equation as `ACTPolicy.forward`.

    L1 of the actions that are no padding, plus `kl_weight` times the divergence of the latent's posterior
    from N(0, I): -1/2 sum(1 + log sigma^2 - mu^2 - sigma^2).
    """

    def __init__(self, policy: ACTPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Batch, num_valid: torch.Tensor, batch_size: int) -> torch.Tensor:
        """The share of a batch, or of a piece of it, in the batch's loss.

        Args:
            batch: normalised, as from `act.frames.Frames.batch`.
            num_valid: numbers in the whole batch's actions that are no padding.
            batch_size: samples in the whole batch.

        Returns:
            loss, L1 and divergence (3,); those of all micro-batches add up to the batch's.
        """
        config: ACTConfig = self.policy.config
        inputs: dict[str, Any] = dict(batch)
        if config.image_features:
            inputs[OBS_IMAGES] = [batch[name] for name in config.image_features]
        actions, (mean, log_variance) = self.policy.model(inputs)
        errors = F.l1_loss(actions, batch[ACTION], reduction="none") * ~batch["action_is_pad"][..., None]
        l1 = errors.sum() / num_valid
        if mean is None:
            divergence = torch.zeros_like(l1)
        else:
            each = -0.5 * (1 + log_variance - mean.pow(2) - log_variance.exp())
            divergence = each.sum() / batch_size
        return torch.stack([l1 + config.kl_weight * divergence, l1, divergence])


def skip_attention_weights(policy: ACTPolicy) -> None:
    """Let no attention layer return its weights, which keeps PyTorch from its fused attention."""

    def without_weights(_module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict]:
        return args, kwargs | {"need_weights": False}

    for module in policy.modules():
        if isinstance(module, nn.MultiheadAttention):
            module.register_forward_pre_hook(without_weights, with_kwargs=True)


def drop_latents(policy: ACTPolicy, share: float) -> None:
    """Train this share of the samples without their latent, as if it were 0.

    With a small `kl_weight` the latent says where the chunk goes, and the decoder no longer reads that from
    the observation: a latent of 0, which is what ACT plays, then is a chunk that goes nowhere. The samples
    without latents teach it what the plain policy would do.
    """

    def without_some(module: nn.Module, inputs: tuple[torch.Tensor]) -> torch.Tensor | None:
        latents = inputs[0]
        if not module.training:
            return None
        return latents * (torch.rand(len(latents), 1, device=latents.device) >= share)

    policy.model.encoder_latent_input_proj.register_forward_pre_hook(without_some)


class ACT:
    """The kind: see `act.kinds.Kind`."""

    title = "ACT"
    settings = PolicyConfig
    needed = ()
    metrics = ("Loss/total", "Loss/l1", "Loss/kl")
    language = ()

    def make_config(
        self,
        settings: PolicyConfig,
        features: dict[str, PolicyFeature],
        optimizer: OptimizerConfig,
        device: str,
    ) -> ACTConfig:
        return act_config(
            settings,
            features,
            device=device,
            optimizer_lr=optimizer.lr,
            optimizer_lr_backbone=optimizer.lr_backbone,
            optimizer_weight_decay=optimizer.weight_decay,
        )

    def make_policy(
        self, config: ACTConfig, settings: Any, seed: int, saved: dict[str, Any] | None
    ) -> tuple[ACTPolicy, str]:
        config.pretrained_backbone_weights = None  # or LeRobot downloads them
        weights = settings.backbone_weights if isinstance(settings, PolicyConfig) else "none"
        trains_norms = None if saved is None else saved.get("trains_batch_norms", False)
        policy, backbone = build_policy(config, seed, weights, trains_norms)
        if isinstance(settings, PolicyConfig) and settings.latent_dropout:
            drop_latents(policy, settings.latent_dropout)
        return policy, f"ResNet: {backbone}"

    def measure_data(self, policy: ACTPolicy, batches: Iterable[Batch]) -> None:
        """LeRobot's processors know it."""

    def least_size(self, config: ACTConfig) -> tuple[int, int, int]:
        """The transformers' matrices; per sample the attention over the chunk, which dropout keeps."""
        width, chunk = config.dim_model, config.chunk_size
        layers = config.n_encoder_layers + 2 * config.n_decoder_layers
        layers += config.n_vae_encoder_layers if config.use_vae else 0
        blocks = layers - config.n_decoder_layers  # with a feed-forward part each
        weights = 4 * layers * width**2 + 2 * blocks * width * config.dim_feedforward + chunk * width
        attention = config.n_heads * chunk**2 if config.dropout else 0
        return weights, weights, attention + blocks * width

    def open_policy(self, config: ACTConfig) -> ACTPolicy:
        config.pretrained_backbone_weights = None  # they are in the checkpoint
        return ACTPolicy(config)

    def make_loss(self, policy: ACTPolicy) -> Loss:
        return Loss(policy)

    def speed_up(self, policy: ACTPolicy) -> None:
        skip_attention_weights(policy)

    def noise_shape(self, config: ACTConfig) -> tuple[int] | None:
        """The latent's: without one its input is never trained."""
        return (config.latent_dim,) if config.use_vae else None

    def chunks(self, policy: ACTPolicy, inputs: Batch, noise: torch.Tensor | None = None) -> torch.Tensor:
        if noise is None:
            return policy.predict_action_chunk(inputs)
        latent = policy.model.encoder_latent_input_proj  # whose input LeRobot sets to 0
        hook = latent.register_forward_pre_hook(lambda *_: (noise,))
        try:
            return policy.predict_action_chunk(inputs)
        finally:
            hook.remove()

    def export(self, policy: ACTPolicy) -> ACTPolicy:
        return freeze_batch_norms(policy)

    def smallest_batch(self, policy: ACTPolicy) -> int:
        """A picture of up to 32 pixels is one number per channel at the end of a ResNet: no statistics."""
        trained = any(isinstance(module, nn.BatchNorm2d) for module in policy.modules())
        small = any(max(feature.shape[1:]) <= 32 for feature in policy.config.image_features.values())
        return 2 if trained and small else 1

    def measure_norms(self, policy: ACTPolicy, batches: Iterable[Batch]) -> None:
        cameras = list(policy.config.image_features)
        update_bn((batch[camera] for batch in batches for camera in cameras), policy.model.backbone)


KIND = ACT()
