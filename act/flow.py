"""A small flow-matching policy: noise and an observation in, a chunk of actions out.

Lipman et al. 2023, "Flow Matching for Generative Modeling" (arXiv 2210.02747), on straight paths as in Liu
et al. 2023, "Flow Straight and Fast" (arXiv 2209.03003). With noise x_0 ~ N(0, I), a demonstrated chunk x_1
and a time t ~ U(0, 1), a network v learns the velocity of x_t = (1 - t) x_0 + t x_1:

    loss = |v(observation, x_t, t) - (x_1 - x_0)|^2

A chunk is the end of `num_inference_steps` Euler steps from x_0 on. Deliberate differences from flows of
pictures, all for a CPU:

* The network is an MLP with residual blocks, which sees the whole chunk at once.
* A chunk is relative to where `observation.state` is when the policy looks, in units of its own standard
  deviation, number by number.
* Without noise given, x_0 is 0, so a policy that is played like any other is deterministic.
* Pictures are seen by a few convolutions (`act/pictures.py`), not by a ResNet.

It is a policy of LeRobot (`PreTrainedPolicy`), and `lerobot_policy_flow.py` makes it known to LeRobot's
commands. Its statistics are tensors of its own, so LeRobot's processors normalise nothing.
"""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.optim.optimizers import AdamWConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import make_default_pre_post_processors
from lerobot.utils.constants import ACTION, OBS_STATE
from torch import nn

from act.kinds import FEATURE_TYPES, Batch
from act.pictures import PictureNet, check_picture

SMALLEST_STD = 1e-6  # of a number that varies, as a share of its mean; smaller is rounding


@PreTrainedConfig.register_subclass("flow")
@dataclass
class FlowConfig(PreTrainedConfig):
    """LeRobot's configuration of it; `act.kinds.flow.PolicyConfig` says what the fields are."""

    chunk_size: int = 16
    n_action_steps: int = 8
    relative: bool = True
    hidden_size: int = 256
    n_layers: int = 3
    n_frequencies: int = 4
    num_inference_steps: int = 5
    noise_std: float = 0.0
    filters: tuple[int, ...] = (32, 48, 64)
    patch_size: int = 4
    do_mask_loss_for_padding: bool = False
    optimizer_lr: float = 1e-3
    optimizer_weight_decay: float = 1e-4
    normalization_mapping: dict[str, NormalizationMode] = field(
        default_factory=lambda: dict.fromkeys(FEATURE_TYPES, NormalizationMode.IDENTITY)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.filters or min(*self.filters, self.patch_size) < 1:
            raise ValueError(
                "filters must be one or more positive numbers, and patch_size positive, "
                f"got {self.filters} and {self.patch_size}"
            )
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise ValueError(f"n_action_steps must be from 1 to chunk_size, {self.chunk_size}")
        if self.n_obs_steps != 1:
            raise ValueError(f"n_obs_steps must be 1, got {self.n_obs_steps}")

    @property
    def observation_delta_indices(self) -> None:
        return None

    @property
    def action_delta_indices(self) -> list[int]:
        return list(range(self.chunk_size))

    @property
    def reward_delta_indices(self) -> None:
        return None

    @property
    def numbers(self) -> dict[str, PolicyFeature]:
        """What it sees beside pictures."""
        return {
            name: feature
            for name, feature in (self.input_features or {}).items()
            if feature.type in (FeatureType.STATE, FeatureType.ENV)
        }

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(T, A)"""
        assert self.action_feature
        return self.chunk_size, self.action_feature.shape[0]

    def get_optimizer_preset(self) -> AdamWConfig:
        return AdamWConfig(lr=self.optimizer_lr, weight_decay=self.optimizer_weight_decay)

    def get_scheduler_preset(self) -> None:
        return None

    def validate_features(self) -> None:
        """Raise ValueError where the policy has inputs or outputs that it cannot have."""
        for name, feature in (self.input_features or {}).items():
            if name not in self.numbers and name not in self.image_features:
                raise ValueError(f"this policy sees states and pictures, and {name} is {feature.type.value}")
        if not self.numbers or not self.action_feature:
            raise ValueError("this policy needs a state to see, beside pictures or alone, and an action")
        for name, feature in self.image_features.items():
            check_picture(name, feature.shape, self.filters, self.patch_size)
        size, state = self.action_feature.shape[0], self.robot_state_feature
        if self.relative and (state is None or state.shape[0] < size):
            raise ValueError(
                f"relative must be false: it takes the first {size} numbers of {OBS_STATE} from the action, "
                f"and the policy sees {state.shape[0] if state else 'none'}"
            )


class FlowNet(nn.Module):
    """The velocity of a chunk.

    Args:
        observation_size, chunk_size: numbers in them.
        hidden_size, n_layers: of the residual blocks.
        n_frequencies: sines and cosines that the time is shown as, beside itself.
    """

    frequencies: torch.Tensor

    def __init__(
        self, observation_size: int, chunk_size: int, hidden_size: int, n_layers: int, n_frequencies: int
    ) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.pi * 2.0 ** torch.arange(n_frequencies), persistent=False)
        self.first = nn.Linear(observation_size + chunk_size + 1 + 2 * n_frequencies, hidden_size)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.LayerNorm(hidden_size),
                nn.Linear(hidden_size, hidden_size),
                nn.GELU(),
                nn.Linear(hidden_size, hidden_size),
            )
            for _ in range(n_layers)
        )
        self.last = nn.Sequential(nn.LayerNorm(hidden_size), nn.Linear(hidden_size, chunk_size))

    def forward(self, observation: torch.Tensor, chunk: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Observations (B, D), chunks (B, T, A) and times (B, 1) -> velocities (B, T, A)."""
        phases = time * self.frequencies
        seen = torch.cat([observation, chunk.flatten(1), time, phases.sin(), phases.cos()], dim=1)
        hidden = self.first(seen)
        for block in self.blocks:
            hidden = hidden + block(hidden)
        return self.last(hidden).reshape(chunk.shape)


class FlowPolicy(PreTrainedPolicy):
    """The policy; batches are in the units of the dataset.

    Args:
        config: with features.
        others: further keyword arguments of LeRobot's `make_policy`, ignored.
    """

    config_class = FlowConfig  # pyright: ignore[reportAssignmentType]
    name = "flow"  # pyright: ignore[reportAssignmentType]

    num_measured: torch.Tensor  # () samples that the statistics are of
    observation_mean: torch.Tensor
    observation_std: torch.Tensor
    chunk_mean: torch.Tensor
    chunk_std: torch.Tensor

    def __init__(self, config: FlowConfig, **others: Any) -> None:
        super().__init__(config)
        config.validate_features()
        self.config: FlowConfig = config
        self.numbers, cameras = list(config.numbers), config.image_features
        self.cameras = list(cameras)
        observation_size = sum(math.prod(feature.shape) for feature in config.numbers.values())
        shape = config.noise_shape
        self.eyes = nn.ModuleList(
            PictureNet(feature.shape, config.filters, config.patch_size) for feature in cameras.values()
        )
        seen_size = observation_size + 2 * config.filters[-1] * len(cameras)
        self.net = FlowNet(
            seen_size, math.prod(shape), config.hidden_size, config.n_layers, config.n_frequencies
        )
        self.register_buffer("num_measured", torch.zeros((), dtype=torch.int64))
        self.register_buffer("observation_mean", torch.zeros(observation_size))
        self.register_buffer("observation_std", torch.ones(observation_size))
        self.register_buffer("chunk_mean", torch.zeros(shape))
        self.register_buffer("chunk_std", torch.ones(shape))
        self.reset()

    def get_optim_params(self) -> Any:
        return self.parameters()

    def reset(self) -> None:
        self._queue: deque[torch.Tensor] = deque(maxlen=self.config.n_action_steps)

    @torch.no_grad()
    def measure(self, batches: Iterable[Batch]) -> None:
        """Set mean and standard deviation of numbers seen and of chunks from all samples of a dataset.

        A relative chunk is not centred: its 0 is where the state is.
        """
        parts = [(self._observation(batch), self._chunk(batch)) for batch in batches]
        observations, chunks = (torch.cat(part) for part in zip(*parts, strict=True))
        self.observation_mean, self.observation_std = _moments(observations)
        mean, self.chunk_std = _moments(chunks)
        self.chunk_mean = torch.zeros_like(mean) if self.config.relative else mean
        self.num_measured.fill_(len(chunks))

    def _observation(self, batch: Batch) -> torch.Tensor:
        """The numbers of it, (B, D)."""
        return torch.cat([batch[name].flatten(1) for name in self.numbers], dim=1)

    def _origin(self, batch: Batch) -> torch.Tensor | float:
        """What a chunk is relative to, (B, 1, A)."""
        if not self.config.relative:
            return 0.0
        return batch[OBS_STATE][:, None, : self.config.noise_shape[1]]

    def _chunk(self, batch: Batch) -> torch.Tensor:
        """(B, T, A)"""
        return batch[ACTION] - self._origin(batch)

    def _seen(self, batch: Batch) -> torch.Tensor:
        """What the network sees of the observations: their numbers and, of each camera, 2 F of places."""
        numbers = (self._observation(batch) - self.observation_mean) / self.observation_std
        places = [eye(batch[name]) for eye, name in zip(self.eyes, self.cameras, strict=True)]
        return torch.cat([numbers, *places], dim=1)

    def loss(self, batch: Batch, num_valid: torch.Tensor, batch_size: int) -> torch.Tensor:
        """The share of a batch, or of a piece of it, in the batch's loss, a mean over all numbers of chunks.

        Beyond its end an episode's last action is repeated, and learnt too unless
        `do_mask_loss_for_padding`.

        Args:
            batch: a piece, with `action` (B, T, A) and `action_is_pad` (B, T).
            num_valid: numbers in the whole batch's actions that are no padding.
            batch_size: samples in the whole batch.
        """
        end = (self._chunk(batch) - self.chunk_mean) / self.chunk_std
        start = torch.randn_like(end)
        time = torch.rand(len(end), 1, 1, device=end.device)
        velocity = self.net(self._seen(batch), start + time * (end - start), time[:, 0])
        errors = (velocity - (end - start)).square()
        if self.config.do_mask_loss_for_padding:
            return (errors * ~batch["action_is_pad"][..., None]).sum() / num_valid
        return errors.sum() / (batch_size * end[0].numel())

    def forward(self, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
        """LeRobot's: the loss of a batch, and numbers to log."""
        if not self.num_measured:
            raise ValueError(
                "this flow policy has no statistics yet: begin with train_act.py, which measures them; "
                "lerobot-train can resume that training"
            )
        num_valid = (~batch["action_is_pad"]).sum() * batch[ACTION].shape[2]
        loss = self.loss(batch, num_valid, len(batch[ACTION]))
        return loss, {"flow_loss": loss.item()}

    @torch.no_grad()
    def predict_action_chunk(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, batch: Batch, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Actions (B, T, A) from noise (B, T, A); None draws it with the standard deviation `noise_std`."""
        self.eval()
        seen, steps = self._seen(batch), self.config.num_inference_steps
        shape = (len(seen), *self.config.noise_shape)
        if noise is None:
            noise = self.config.noise_std * torch.randn(shape, device=seen.device)
        chunk = noise
        for step in range(steps):
            time = torch.full((len(seen), 1), step / steps, device=seen.device)
            chunk = chunk + self.net(seen, chunk, time) / steps
        return chunk * self.chunk_std + self.chunk_mean + self._origin(batch)

    @torch.no_grad()
    def select_action(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, batch: Batch, noise: torch.Tensor | None = None
    ) -> torch.Tensor:
        """The next action (B, A); looks again when `n_action_steps` of a chunk are played."""
        if not self._queue:
            chunk = self.predict_action_chunk(batch, noise)
            self._queue.extend(chunk[:, : self.config.n_action_steps].transpose(0, 1))
        return self._queue.popleft()


def _moments(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and standard deviation over samples (N, ...); the latter 1 where nothing varies."""
    std, mean = torch.std_mean(samples.double().cpu(), dim=0, correction=0)
    std = torch.where(std > SMALLEST_STD * mean.abs(), std, 1.0)
    return mean.to(samples), std.to(samples)


def make_flow_pre_post_processors(config: FlowConfig, dataset_stats: Any = None) -> tuple[Any, Any]:
    """LeRobot's processors, found by this name; they change nothing but the device."""
    return make_default_pre_post_processors(config, dataset_stats, normalizer_device=config.device)
