"""LeRobot's SmolVLA as a kind of policy: it reads the task's sentence, and its noise can be chosen.

Shukor et al. 2025, "SmolVLA: A Vision-Language-Action Model for Affordable and Efficient Robotics" (arXiv
2506.01844). A vision-language model (VLM) sees pictures, sentence and state; an expert beside it, layer by
layer, turns noise into a chunk of actions by flow matching: x_t = t noise + (1 - t) actions, the loss is the
squared error of dx/dt = noise - actions, and a chunk is the end of `num_steps` Euler steps from t = 1 to 0.
The network is `lerobot.policies.smolvla` as it is. Deliberate differences:

* `Loss` is `SmolVLAPolicy.forward` without its four host syncs, and can be computed in micro-batches.
* A random VLM that would stay as it is, LeRobot's default, is refused.
* What is trained is float32. LeRobot's is bfloat16 after `load_vlm_weights`, also most of the expert, and
  does not resolve the thousandth of the way by which an average moves. A frozen VLM stays bfloat16.
* A checkpoint is opened without the VLM's own weights, which it replaces: LeRobot fetches them first.
"""

import io
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import torch

# LeRobot misses it only when it builds a policy; `make setup-vla` installs it.
import transformers  # noqa: F401  # pyright: ignore[reportMissingImports]
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.policies.smolvla.modeling_smolvla import SmolVLAPolicy
from lerobot.policies.smolvla.smolvlm_with_expert import get_intermediate_size
from lerobot.utils.constants import (
    ACTION,
    OBS_ENV_STATE,
    OBS_LANGUAGE_ATTENTION_MASK,
    OBS_LANGUAGE_TOKENS,
    OBS_STATE,
)
from lerobot.utils.random_utils import set_seed
from torch import nn

from act.foreign import MOST_TOKENS, opening
from act.inputs import choose_inputs
from act.kinds import Batch, PlainKind, check_n_action_steps, lerobot_settings
from act.optimizer import OptimizerConfig
from act.vlm import OFFICIAL, count_weights, read_sizes
from common.bounds import Above, Between, Horizon, Several, Width
from common.errors import UserError, reason
from common.memory import check_fits
from common.untrusted import load_tensors

LONGEST_PREFIX = 10_000  # tokens to which a foreign policy may pad what it sees


@dataclass(frozen=True)
class PolicyConfig:
    """SmolVLA, under LeRobot's names; its defaults but for chunk_size and n_action_steps."""

    type: Literal["smolvla"] = field(default="smolvla", kw_only=True)  # kind of policy, see act/kinds/
    inputs: tuple[str, ...] = ()  # dataset features; none: cameras and observation.state
    vlm_model_name: str = OFFICIAL  # on the Hub; or a folder that `python -m act.vlm` made
    load_vlm_weights: bool = False  # begin with the VLM's own, from the Hub; while it is frozen in bfloat16
    pretrained: Path | None = None  # folder of a SmolVLA whose weights it begins with: lerobot/smolvla_base
    freeze_vision_encoder: bool = True  # train nothing that sees
    train_expert_only: bool = True  # train nothing of the VLM
    train_state_proj: bool = True  # train the projection of observation.state
    chunk_size: Horizon = 16  # environment steps that it predicts; LeRobot's 50 are 5 s at 10 Hz
    n_action_steps: Horizon = 8  # of those are played before it looks again
    max_state_dim: Width = 32  # numbers that a state is filled up to with zeros
    max_action_dim: Width = 32  # the same of an action, and of each step's noise
    resize_imgs_with_padding: Annotated[tuple[int, int], Between(8, 1_024)] = (512, 512)  # width, height
    tokenizer_max_length: Annotated[int, Between(1, MOST_TOKENS)] = 48  # at which a sentence is cut
    num_steps: Several = 10  # Euler steps from noise to a chunk
    num_vlm_layers: Annotated[int, Between(1, 100)] = 16  # of the VLM's language model; the rest is left out
    num_expert_layers: Annotated[int, Between(-1, 100)] = -1  # divides those; up to 0: as many
    self_attn_every_n_layers: Annotated[int, Between(-1, 100)] = 2  # the others look at the VLM's alone
    expert_width_multiplier: Annotated[float, Above(0, 4)] = 0.75  # hidden size, of the VLM's

    def validate(self) -> None:
        check_n_action_steps(self)


class Loss(nn.Module):
    """The training loss, `SmolVLAPolicy.forward`: the mean over what is no padding, (1,)."""

    def __init__(self, policy: SmolVLAPolicy) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, batch: Batch, num_valid: torch.Tensor, batch_size: int) -> torch.Tensor:
        policy, action_size = self.policy, batch[ACTION].shape[2]
        errors = policy.model.forward(
            *policy.prepare_images(batch),
            batch[OBS_LANGUAGE_TOKENS],
            batch[OBS_LANGUAGE_ATTENTION_MASK],
            policy.prepare_state(batch),
            policy.prepare_action(batch),
        )  # (B, T, max_action_dim)
        valid = ~batch["action_is_pad"][..., None]
        return ((errors[..., :action_size] * valid).sum() / num_valid)[None]


class SmolVLA(PlainKind):
    """The kind: see `act.kinds.Kind`."""

    title = "SmolVLA"
    settings = PolicyConfig
    needed = (  # whose defaults would play it wrongly, without a word
        *("add_image_special_tokens", "attention_mode", "prefix_length", "pad_language_to"),
        *("min_period", "max_period", "empty_cameras", "adapt_to_pi_aloha", "normalization_mapping"),
    )
    metrics = ("Loss/flow",)
    language = (OBS_LANGUAGE_TOKENS, OBS_LANGUAGE_ATTENTION_MASK)

    def make_config(
        self,
        settings: PolicyConfig,
        features: dict[str, PolicyFeature],
        optimizer: OptimizerConfig,
        device: str,
    ) -> SmolVLAConfig:
        folder, inputs = Path(settings.vlm_model_name), choose_inputs(features, settings.inputs, self.title)
        if OBS_ENV_STATE in settings.inputs:
            raise UserError(f"policy.inputs must not have {OBS_ENV_STATE}, which a {self.title} cannot see")
        if not any(feature.type is FeatureType.VISUAL for feature in inputs.values()):
            raise UserError(f"a {self.title} looks at pictures, and it is to be trained without a camera")
        config = SmolVLAConfig(
            **lerobot_settings(settings, "pretrained", "vlm_model_name"),
            # A checkpoint may be opened from another folder than this one.
            vlm_model_name=str(folder.absolute() if folder.is_dir() else settings.vlm_model_name),
            input_features=inputs,
            output_features={ACTION: features[ACTION]},
            device=device,
            push_to_hub=False,
            optimizer_lr=optimizer.lr,
            optimizer_weight_decay=optimizer.weight_decay,
        )
        try:
            _check(config, read_sizes(config.vlm_model_name))
            if settings.load_vlm_weights and folder.is_dir():
                raise ValueError("load_vlm_weights must be false with a folder, which describes and has none")
        except ValueError as error:
            raise UserError(f"policy.{error}") from None
        return config

    def make_policy(
        self, config: SmolVLAConfig, settings: Any, seed: int, saved: dict[str, Any] | None
    ) -> tuple[SmolVLAPolicy, str]:
        set_seed(seed)
        pretrained = settings.pretrained if isinstance(settings, PolicyConfig) and saved is None else None
        layers = _num_layers(config, read_sizes(config.vlm_model_name))
        if not config.train_expert_only and 0 < 2 * config.num_expert_layers < layers:
            raise UserError(  # of the VLM's layers that no action depends on LeRobot freezes two
                f"policy.num_expert_layers must be at least {-(-layers // 2)}, half of the VLM's, unless "
                f"policy.train_expert_only is true, got {config.num_expert_layers}"
            )
        own = saved is None and pretrained is None  # weights that come from nowhere else
        if own and not config.load_vlm_weights and (config.train_expert_only or config.freeze_vision_encoder):
            raise UserError(
                "policy.load_vlm_weights must be true, or policy.train_expert_only and "
                "policy.freeze_vision_encoder false: else a random vision-language model would stay random"
            )
        policy = _build(config, load_vlm_weights=own and config.load_vlm_weights)
        origin = "its own weights" if own and config.load_vlm_weights else "random weights"
        if pretrained:
            _load(policy, pretrained)
            origin = f"weights of {pretrained}"
        elif saved is not None:
            origin = "weights of the checkpoint"
        if not config.train_expert_only:
            policy.model.vlm_with_expert.vlm.float()
            config.load_vlm_weights = False  # for LeRobot: open it in float32
        trained = sum(weights.numel() for weights in policy.parameters() if weights.requires_grad)
        return policy, f"{config.vlm_model_name}, {origin}; {trained:,} trained"

    def least_size(self, config: SmolVLAConfig) -> tuple[int, int, int]:
        """The matrices of VLM and expert, the expert's; per sample its activations."""
        sizes = read_sizes(config.vlm_model_name)
        text = sizes["text_config"]
        layers, width = _num_layers(config, sizes), _expert_width(config, sizes)
        each = 2 * width * text["num_attention_heads"] * text["head_dim"]
        each += 3 * width * get_intermediate_size(width)
        blocks = config.num_expert_layers if config.num_expert_layers > 0 else layers
        expert = blocks * each
        return count_weights(sizes, layers) + expert, expert, blocks * config.chunk_size * width

    def open_policy(self, config: SmolVLAConfig) -> SmolVLAPolicy:
        return _build(config)

    def make_loss(self, policy: SmolVLAPolicy) -> Loss:
        return Loss(policy)

    def noise_shape(self, config: SmolVLAConfig) -> tuple[int, int]:
        """(chunk_size, max_action_dim): where the flow begins."""
        return config.chunk_size, config.max_action_dim

    def chunks(self, policy: SmolVLAPolicy, inputs: Batch, noise: torch.Tensor | None = None) -> torch.Tensor:
        return policy.predict_action_chunk(inputs, noise)


def _build(config: SmolVLAConfig, load_vlm_weights: bool = False) -> SmolVLAPolicy:
    """The network, random but for the VLM's own weights: float32, the VLM bfloat16 where it is LeRobot's.

    Args:
        config: LeRobot's; settings that change how it computes, not what, are reset.
        load_vlm_weights: have the VLM's own.

    Raises:
        UserError: the VLM's description is missing, or does not suit; or no network.
        ValueError: it is not played or trained here.
    """
    sizes = read_sizes(config.vlm_model_name)
    _check(config, sizes)
    # transformers builds all layers before LeRobot leaves out some.
    check_fits(config.vlm_model_name, count_weights(sizes, sizes["text_config"]["num_hidden_layers"]))
    config.compile_model, config.rtc_config = False, None
    in_bfloat16, config.load_vlm_weights = config.load_vlm_weights, load_vlm_weights
    try:
        with (
            opening(f"{config.vlm_model_name}: this vision-language model cannot be opened"),
            redirect_stdout(io.StringIO()),  # LeRobot prints how many layers it leaves out
        ):
            policy = SmolVLAPolicy(config)
    finally:
        config.load_vlm_weights = in_bfloat16
    policy.model.vlm_with_expert.float()  # LeRobot's expert follows the VLM's `config.json`
    if in_bfloat16:
        policy.model.vlm_with_expert.vlm.to(torch.bfloat16)
    return policy


def _load(policy: SmolVLAPolicy, folder: Path) -> None:
    """Begin with the weights in a folder as LeRobot saves a policy to it.

    Raises:
        UserError: it has none, or those of another network.
    """
    weights = load_tensors(folder / "model.safetensors")
    try:  # the statistics in a checkpoint of LeRobot 0.3 are another dataset's
        policy.load_state_dict({k: v for k, v in weights.items() if not k.startswith(("normal", "unnormal"))})
    except RuntimeError as error:
        raise UserError(
            f"policy.pretrained: {folder} has weights of another network than the settings': {reason(error)}"
        ) from None


def _num_layers(config: SmolVLAConfig, sizes: dict[str, Any]) -> int:
    """Of the VLM's language model, after LeRobot has left out the rest."""
    return min(config.num_vlm_layers, sizes["text_config"]["num_hidden_layers"])


def _expert_width(config: SmolVLAConfig, sizes: dict[str, Any]) -> int:
    return int(sizes["text_config"]["hidden_size"] * config.expert_width_multiplier)


def _check(config: SmolVLAConfig, sizes: dict[str, Any]) -> None:
    """Raise ValueError, which begins with a setting's name, for what LeRobot would fail at later, or never.

    Args:
        config: LeRobot's.
        sizes: of its VLM.
    """
    assert config.action_feature
    for name, feature, most in (
        ("max_state_dim", (config.input_features or {}).get(OBS_STATE), config.max_state_dim),
        ("max_action_dim", config.action_feature, config.max_action_dim),
    ):
        if feature is None or len(feature.shape) != 1:
            raise ValueError(f"inputs must have {OBS_STATE}, numbers in a row")
        if feature.shape[0] > most:
            raise ValueError(f"{name} must be at least {feature.shape[0]}, as many as there are, got {most}")
    if not config.image_features:
        raise ValueError("inputs must have a camera")
    _check_layers(config, sizes)
    step = sizes["vision_config"]["patch_size"] * sizes["scale_factor"]
    sides = config.resize_imgs_with_padding
    if sides is None or len({*sides}) != 1 or sides[0] % max(step, 1):
        raise ValueError(f"resize_imgs_with_padding must be two equal multiples of {step}, got {sides}")
    if config.adapt_to_pi_aloha or config.empty_cameras:
        raise ValueError("adapt_to_pi_aloha and empty_cameras must be off, they are for a robot called Aloha")
    if config.attention_mode not in ("cross_attn", "self_attn"):
        raise ValueError(f"attention_mode must be cross_attn or self_attn, got {config.attention_mode:.20}")
    if config.prefix_length > LONGEST_PREFIX:
        raise ValueError(f"prefix_length must be at most {LONGEST_PREFIX:,}, got {config.prefix_length}")


def _check_layers(config: SmolVLAConfig, sizes: dict[str, Any]) -> None:
    """Raise ValueError as `_check` does, where the expert's layers do not fit beside the VLM's."""
    if (width := _expert_width(config, sizes)) < 2 or width % 2:
        hidden = sizes["text_config"]["hidden_size"]
        raise ValueError(f"expert_width_multiplier must make an even number of {hidden}, got {width}")
    layers, experts = _num_layers(config, sizes), config.num_expert_layers
    if experts > 0 and layers % experts:
        raise ValueError(f"num_expert_layers must divide {layers}, got {experts}")
    every = config.self_attn_every_n_layers if config.attention_mode == "cross_attn" else 0
    # LeRobot shapes the expert's layers by their own numbers, and uses them by those of the VLM's beside.
    apart = layers // experts if experts > 0 else 1
    if every > 0 and any((i * apart % every == 0) != (i % every == 0) for i in range(experts)):
        raise ValueError(f"num_expert_layers must not be {experts} with self_attn_every_n_layers {every}")


KIND = SmolVLA()
