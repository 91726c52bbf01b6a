"""The settings of SAC, `agent:` in a YAML."""

from dataclasses import dataclass, field
from typing import Annotated

from common.bounds import Between, Count, NotNegative, Positive, Several, Share, ShareBelow1, Widths
from sac.encoder import EncoderConfig


@dataclass(frozen=True)
class AgentConfig:
    """Soft actor-critic."""

    hidden_sizes: Widths = (128, 128)  # of actor and critics
    num_critics: Annotated[int, Between(1, 100)] = 2  # the smallest estimate counts
    target_subset: int = 0  # critics drawn at random for each target (REDQ); 0: all of them
    critic_layer_norm: bool = False  # layer norm in the critics (RLPD)
    lr: Positive = 2e-3  # Adam, actor and critics
    alpha_lr: Positive = 1e-3  # Adam, temperature
    final_lr_fraction: Share = 0.05  # the learning rates fall to this share along a cosine
    gamma: Share = 0.98  # discount per environment step
    n_step: Several = 3  # rewards in a return
    reward_smoothing: ShareBelow1 = 0.0  # weight of the average before, see sac/smoothing.py; 0: off
    tau: Share = 0.01  # Polyak step of the target critics
    batch_size: Count = 256  # transitions per update
    initial_alpha: Positive = 0.1  # temperature at the start
    target_entropy: float = -2.0  # nats; -action_size is SAC's rule
    final_target_entropy: float = -2.0  # nats; the target falls to this, if it is not the same
    anneal_entropy: tuple[float, float] = (0.4, 0.9)  # shares of the training between which it falls
    grad_clip: NotNegative = 0.0  # largest gradient norm of actor and critics; 0: no clipping
    actor_ema: ShareBelow1 = 0.998  # decay per update of the average that is evaluated; 0: the actor itself
    compile: bool | None = None  # the update into one graph; None: where the training is long enough
    # DSRL-NA: critics judge what a steered policy makes of the noise, and teach critics of the noise.
    noise_aliasing: bool = False
    distillation_steps: Several = 1  # of the critics of the noise, per update
    encoder: EncoderConfig = field(default_factory=EncoderConfig)  # where the task has pictures

    def validate(self) -> None:
        if not 0 <= self.target_subset <= self.num_critics:
            raise ValueError(
                f"target_subset must be at most num_critics, {self.num_critics}, got {self.target_subset}"
            )
        if not 0.0 <= self.anneal_entropy[0] < self.anneal_entropy[1] <= 1.0:
            raise ValueError(f"anneal_entropy must be two rising shares, got {self.anneal_entropy}")
        if self.distillation_steps != type(self).distillation_steps and not self.noise_aliasing:
            raise ValueError(
                f"distillation_steps must be left out without noise_aliasing, got {self.distillation_steps}"
            )
        if self.noise_aliasing and self.compile:
            raise ValueError(
                "compile must be false with noise_aliasing: each update asks the policy that is steered"
            )
        if not self.hidden_sizes:
            raise ValueError(f"hidden_sizes must name layers of at least 1 unit, got {self.hidden_sizes}")
