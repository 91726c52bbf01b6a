"""Soft actor-critic.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv:1812.05905). One `update` is, in
the paper's order: the critics towards the soft Bellman target, the actor towards the critics' soft maximum,
the temperature towards the target entropy, the target critics towards the critics.

Deliberate differences, all but the first an option:
* the temperature's loss is log alpha times the entropy's shortfall, as in the authors' code (equation 18 has
  alpha), and critics and actor of one update use the temperature from before it.
* n-step returns (`replay_buffer.py`): the batch holds the summed rewards and gamma^(environment steps).
* any number of critics; a random subset of them makes the target (REDQ, arXiv:2101.05982; its
  actor follows their mean, ours their minimum), and critics may be
  normalised layer by layer (RLPD, arXiv:2302.02948).
* the target entropy may fall late in the training, so that the policy learns to do without its noise.
* the learning rate may fall along a cosine, and the policy that is evaluated and saved is a moving average of
  the actor's weights: SAC's mean action changes from update to update, and the average is stable.
"""

import copy
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

import numpy as np
import torch

from common.bounds import Between, Count, NotNegative, Positive, Several, Share, Widths
from common.checkpoint import check_moments
from common.errors import show
from common.memory import check_fits
from common.seeding import restore_generator
from sac.actor import Actor
from sac.critic import Critics
from sac.losses import actor_loss, critic_loss, td_target, temperature_loss
from sac.replay_buffer import Batch


@dataclass(frozen=True)
class AgentConfig:
    """Soft actor-critic."""

    hidden_sizes: Widths = (128, 128)  # of actor and critics
    num_critics: Annotated[int, Between(1, 100)] = 2  # the smallest estimate counts
    target_subset: int = 0  # critics drawn at random for each target (REDQ); 0: all of them
    critic_layer_norm: bool = False  # layer norm in the critics (RLPD)
    lr: Positive = 6e-4  # Adam, actor and critics
    alpha_lr: Positive = 3e-4  # Adam, temperature
    final_lr_fraction: Share = 0.05  # the learning rates fall to this share along a cosine
    gamma: Share = 0.98  # discount per environment step
    n_step: Several = 3  # rewards in a return
    tau: Share = 0.005  # Polyak step of the target critics
    batch_size: Count = 256  # transitions per update
    initial_alpha: Positive = 0.1  # temperature at the start
    target_entropy: float = -2.0  # nats; -action_size is SAC's rule
    final_target_entropy: float = -2.0  # nats; the target falls to this, if it is not the same
    anneal_entropy: tuple[float, float] = (0.4, 0.9)  # shares of the training between which it falls
    grad_clip: NotNegative = 0.0  # largest gradient norm of actor and critics; 0: no clipping
    actor_ema: float = 0.999  # decay per update of the averaged actor that is evaluated; 0: the actor itself
    compile: bool = False  # torch.compile the update (with CUDA graphs on a GPU)

    def validate(self) -> None:
        if not 0.0 <= self.actor_ema < 1.0:
            raise ValueError(f"actor_ema must be at least 0 and below 1, got {self.actor_ema}")
        if not 0 <= self.target_subset <= self.num_critics:
            raise ValueError(
                f"target_subset must be at most num_critics, {self.num_critics}, got {self.target_subset}"
            )
        if not 0.0 <= self.anneal_entropy[0] < self.anneal_entropy[1] <= 1.0:
            raise ValueError(f"anneal_entropy must be two rising shares, got {self.anneal_entropy}")
        if not self.hidden_sizes:
            raise ValueError(f"hidden_sizes must name layers of at least 1 unit, got {self.hidden_sizes}")


class SAC:
    """Actor, critics, temperature and how they learn.

    Args:
        observation_size, action_size: D and A.
        total_updates: over which the learning rates fall.
        seed: of the initial weights and of all noise drawn here.

    Raises:
        UserError: the networks do not fit into the memory.
    """

    def __init__(
        self,
        observation_size: int,
        action_size: int,
        config: AgentConfig,
        total_updates: int,
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        _check_fits(observation_size, action_size, config, device)
        self.config = config
        self.total_updates = total_updates
        self.updates = 0
        self.device = torch.device(device)
        self.action_size = action_size
        self.generator = torch.Generator(self.device).manual_seed(seed)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.actor = Actor(observation_size, action_size, config.hidden_sizes)
            self.critics = Critics(
                observation_size,
                action_size,
                config.hidden_sizes,
                config.num_critics,
                config.critic_layer_norm,
            )
        self.actor.to(self.device)
        self.critics.to(self.device)
        self.averaged_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.critics_target = copy.deepcopy(self.critics).requires_grad_(False)
        self.log_alpha = torch.tensor(math.log(config.initial_alpha), device=self.device, requires_grad=True)

        self.target_entropy = torch.tensor(config.target_entropy, device=self.device)
        self.optimizers = {
            "actor": self._adam(self.actor.parameters(), config.lr),
            "critics": self._adam(self.critics.parameters(), config.lr),
            "log_alpha": self._adam([self.log_alpha], config.alpha_lr),
        }
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self._update = torch.compile(self._eager_update, mode=mode) if config.compile else self._eager_update

    @torch.no_grad()
    def act(self, observations: torch.Tensor, num_greedy: int = 0) -> torch.Tensor:
        """Actions (n, A) for observations (n, D): the mode in the first `num_greedy` rows, else samples."""
        noise = torch.randn(len(observations), self.action_size, device=self.device, generator=self.generator)
        noise[:num_greedy] = 0.0
        return self.actor.sample(observations, noise)[0]

    def update(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One gradient step of everything. Returns scalars on the device, not waited for."""
        self._follow_schedules()
        # Randomness is drawn outside, so that the compiled and the eager update see the same.
        shape = (2, len(batch.rewards), self.action_size)
        noise = torch.randn(shape, device=self.device, generator=self.generator)
        shuffled = torch.rand(self.config.num_critics, device=self.device, generator=self.generator).argsort()
        subset = shuffled[: self.config.target_subset or None]
        metrics = self._update(batch, noise, subset)
        self.updates += 1
        return metrics

    def _eager_update(
        self, batch: Batch, noise: torch.Tensor, subset: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        noise, next_noise = noise.unbind()
        alpha = self.log_alpha.detach().exp()
        with torch.no_grad():
            next_actions, next_log_prob = self.actor.sample(batch.next_observations, next_noise)
        metrics = self._update_critics(batch, next_actions, next_log_prob, alpha, subset)
        actions, log_prob = self.actor.sample(batch.observations, noise)
        metrics |= self._update_actor(batch.observations, actions, log_prob, alpha)
        metrics |= self._update_temperature(log_prob)
        self._update_averages()
        return metrics

    def _update_critics(self, batch, next_actions, next_log_prob, alpha, subset) -> dict[str, torch.Tensor]:
        next_q = self.critics_target(batch.next_observations, next_actions)[subset]
        target = td_target(batch.rewards, batch.discounts, next_q, next_log_prob, alpha)
        q = self.critics(batch.observations, batch.actions)
        losses = critic_loss(q, target)
        self._step("critics", losses.sum(), self.critics.parameters())
        metrics = {}
        for i in range(2):
            metrics[f"Loss/critic{i + 1}"] = losses[min(i, len(losses) - 1)].detach()
            metrics[f"Q/mean_q{i + 1}"] = q[min(i, len(losses) - 1)].detach().mean()
        return metrics

    def _update_actor(self, observations, actions, log_prob, alpha) -> dict[str, torch.Tensor]:
        self.critics.requires_grad_(False)  # only the way to the action is needed
        loss = actor_loss(self.critics(observations, actions), log_prob, alpha)
        self.critics.requires_grad_(True)
        self._step("actor", loss, self.actor.parameters())
        return {"Loss/actor": loss.detach(), "Policy/log_prob": log_prob.detach().mean()}

    def _update_temperature(self, log_prob) -> dict[str, torch.Tensor]:
        loss = temperature_loss(self.log_alpha, log_prob, self.target_entropy)
        self._step("log_alpha", loss, [self.log_alpha])
        return {"Alpha": self.log_alpha.detach().exp()}

    def _step(self, name: str, loss: torch.Tensor, parameters) -> None:
        optimizer = self.optimizers[name]
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.config.grad_clip and name != "log_alpha":
            torch.nn.utils.clip_grad_norm_(parameters, self.config.grad_clip)
        optimizer.step()

    @torch.no_grad()
    def _update_averages(self) -> None:
        torch._foreach_lerp_(
            list(self.critics_target.parameters()), list(self.critics.parameters()), self.config.tau
        )
        torch._foreach_lerp_(
            list(self.averaged_actor.parameters()), list(self.actor.parameters()), 1 - self.config.actor_ema
        )

    def _adam(self, parameters, lr: float) -> torch.optim.Adam:
        # A tensor, so that a schedule neither recompiles nor invalidates a CUDA graph.
        return torch.optim.Adam(parameters, lr=torch.tensor(lr, device=self.device), fused=True)

    def _follow_schedules(self) -> None:
        """Set learning rates and target entropy for the share of the training that is done."""
        config, done = self.config, min(self.updates / self.total_updates, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        scale = config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine
        for name, optimizer in self.optimizers.items():
            lr = config.alpha_lr if name == "log_alpha" else config.lr
            optimizer.param_groups[0]["lr"].fill_(scale * lr)
        entropies = (config.target_entropy, config.final_target_entropy)
        self.target_entropy.fill_(np.interp(done, config.anneal_entropy, entropies))

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything that an exact continuation needs, by name, as tensors."""
        state = {"log_alpha": self.log_alpha, "generator": self.generator.get_state()}
        for name, module in self._modules().items():
            state |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for index, moments in optimizer.state_dict()["state"].items():
                state |= {f"optimizer.{name}.{index}.{key}": tensor for key, tensor in moments.items()}
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor], updates: int) -> None:
        """Continue from `state_dict` after this many updates."""
        self.updates = updates
        self.log_alpha.data.copy_(state["log_alpha"])
        restore_generator(self.generator, state["generator"], updates)
        for name, module in self._modules().items():
            module.load_state_dict({key: state[f"{name}.{key}"] for key in module.state_dict()})
        for name, optimizer in self.optimizers.items():
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for full_key, tensor in state.items():
                if full_key.startswith(f"optimizer.{name}."):
                    index, key = full_key.removeprefix(f"optimizer.{name}.").split(".")
                    moments.setdefault(int(index), {})[key] = tensor
            groups = optimizer.state_dict()["param_groups"]
            optimizer.load_state_dict({"state": moments, "param_groups": groups})
            check_moments(optimizer)

    def _modules(self) -> dict[str, torch.nn.Module]:
        return {
            "actor": self.actor,
            "averaged_actor": self.averaged_actor,
            "critics": self.critics,
            "critics_target": self.critics_target,
        }


def _check_fits(
    observation_size: int, action_size: int, config: AgentConfig, device: torch.device | str
) -> None:
    """Five of each weight: itself, its average, its gradient and Adam's moments; and the activations."""
    inputs, hidden, critics = observation_size + action_size, config.hidden_sizes, config.num_critics
    weights = sum(math.prod(sizes) for sizes in pairwise((inputs, *hidden)))
    activations = config.batch_size * (inputs + sum(hidden))
    check_fits(
        f"an agent of hidden_sizes {show(hidden)}, num_critics {critics} and batch_size {config.batch_size}",
        (critics + 1) * (5 * weights + activations),
        device,
    )
