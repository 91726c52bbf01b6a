"""A kind of policy in one file: the next actions are linear in the latest two observations."""

from dataclasses import dataclass, field
from typing import Literal

import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import NormalizationMode
from lerobot.optim.optimizers import AdamWConfig
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import make_default_pre_post_processors
from torch import nn

HISTORY = 2


@dataclass(frozen=True)
class LinearSettings:
    """The linear policy."""

    type: Literal["linear"] = "linear"  # kind of policy
    inputs: tuple[str, ...] = ("observation.state", "observation.environment_state")  # dataset features
    horizon: int = 4  # environment steps that it predicts
    n_action_steps: int = 2  # of those are played


@PreTrainedConfig.register_subclass("linear")
@dataclass
class LinearConfig(PreTrainedConfig):
    horizon: int = 4
    n_action_steps: int = 2
    optimizer_lr: float = 1e-3
    normalization_mapping: dict = field(
        default_factory=lambda: dict.fromkeys(("STATE", "ENV", "ACTION"), NormalizationMode.MEAN_STD)
    )

    observation_delta_indices = property(lambda self: list(range(1 - HISTORY, 1)))
    action_delta_indices = property(lambda self: list(range(self.horizon)))
    reward_delta_indices = None

    def get_optimizer_preset(self):
        return AdamWConfig(lr=self.optimizer_lr)

    def get_scheduler_preset(self):
        return None

    def validate_features(self):
        pass


class LinearPolicy(PreTrainedPolicy):
    config_class = LinearConfig
    name = "linear"

    def __init__(self, config):
        super().__init__(config)
        sizes = [feature.shape[0] for feature in config.input_features.values()]
        self.action_size = config.output_features["action"].shape[0]
        self.layer = nn.Linear(HISTORY * sum(sizes), config.horizon * self.action_size)

    def get_optim_params(self):
        return self.parameters()

    def reset(self):
        pass

    def predict_action_chunk(self, batch):
        seen = torch.cat([batch[name].flatten(1) for name in self.config.input_features], dim=1)
        return self.layer(seen).unflatten(1, (self.config.horizon, self.action_size))

    def select_action(self, batch):
        return self.predict_action_chunk(batch)[:, 0]

    def forward(self, batch):
        return (self.predict_action_chunk(batch) - batch["action"]).square().mean(), {}


class SquaredError(nn.Module):
    def __init__(self, policy):
        super().__init__()
        self.policy = policy

    def forward(self, batch, num_valid, batch_size):
        errors = self.policy.predict_action_chunk(batch) - batch["action"]
        valid = ~batch["action_is_pad"][..., None]
        return (errors.square() * valid).sum()[None] / num_valid


def make_linear_pre_post_processors(config, dataset_stats=None):
    return make_default_pre_post_processors(config, dataset_stats)


class Linear:
    title = "linear policy"
    settings = LinearSettings
    needed = ()
    metrics = ("Loss/mse",)
    language = ()

    def make_config(self, settings, features, optimizer, device):
        return LinearConfig(
            horizon=settings.horizon,
            n_action_steps=settings.n_action_steps,
            optimizer_lr=optimizer.lr,
            input_features={name: features[name] for name in settings.inputs},
            output_features={"action": features["action"]},
            device=device,
            push_to_hub=False,
        )

    def make_policy(self, config, settings, seed, saved):
        torch.manual_seed(seed)
        return LinearPolicy(config), "from scratch"

    def least_size(self, config):
        return 0, 0, 0

    def open_policy(self, config):
        return LinearPolicy(config)

    def make_loss(self, policy):
        return SquaredError(policy)

    def speed_up(self, policy):
        pass

    def measure_data(self, policy, batches):
        pass

    def noise_shape(self, config):
        return None

    @torch.no_grad()
    def chunks(self, policy, inputs, noise=None):
        return policy.predict_action_chunk(inputs)

    def export(self, policy):
        return policy

    def smallest_batch(self, policy):
        return 1

    def measure_norms(self, policy, batches):
        pass


KIND = Linear()
