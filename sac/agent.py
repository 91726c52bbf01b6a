"""Soft actor-critic.

Haarnoja et al. 2018, "Soft Actor-Critic Algorithms and Applications" (arXiv:1812.05905). One `update` is, in
the paper's order: the critics towards the soft Bellman target, the actor towards the critics' soft maximum,
the temperature towards the target entropy, the target critics towards the critics.

Deliberate differences, all but the first an option:
* the temperature's loss is log alpha times the entropy's shortfall, as in the authors' code (equation 18 has
  alpha), and critics and actor of one update use the temperature from before it.
* n-step returns (`replay_buffer.py`): the batch holds the summed rewards and gamma^(environment steps).
* any number of critics, of which a random subset makes the target (REDQ, arXiv:2101.05982; its actor follows
  their mean, ours their minimum). They may be normalised layer by layer (RLPD, arXiv:2302.02948).
* the target entropy may fall late in the training, so that the policy learns to do without its noise.
* where the action is the noise of a frozen policy pi, the critics may judge what pi executes (DSRL-NA, arXiv
  2506.15799, algorithm 1). The target is then r + gamma (min Q(s', pi(s', w')) - alpha log pi(w' | s')), and
  critics of the noise, Q_W, which the actor follows, learn Q(s, pi(s, w)) critic by critic, for w of N(0, I)
  within the actor's bound (`envs/aliasing.py`). No gradient passes pi. Their networks learn the difference to
  Q(s, pi(s, 0)) alone: states differ more than noises do, and would be most of what there is to learn.
* pictures pass an encoder first (`encoder.py`), whose features critics and actor share.
* the learning rate may fall along a cosine, and the policy that is evaluated and saved is a moving average of
  the actor's weights: SAC's mean action changes from update to update, and the average is stable.
"""

import copy
import math
from typing import NamedTuple

import numpy as np
import torch

from common.checkpoint import part
from common.seeding import restore_generator
from envs.aliasing import NoiseAliasing
from sac.adam import Adam, corrections
from sac.compiler import compiled, pays
from sac.config import AgentConfig
from sac.encoder import Decoder
from sac.losses import actor_loss, critic_loss, imitation_loss, td_target, temperature_gradient
from sac.networks import check_memory, make_networks
from sac.replay_buffer import Batch, Observed, Pixels


class Rates(NamedTuple):
    """The numbers that change from update to update; () tensors for a compiled one."""

    lr: float | torch.Tensor
    alpha_lr: float | torch.Tensor
    target_entropy: float | torch.Tensor
    mean_correction: float | torch.Tensor  # Adam's bias corrections, see sac/adam.py
    root_correction: float | torch.Tensor


class Noise(NamedTuple):
    """What is random in an update."""

    actions: torch.Tensor  # (B, A) normal
    next_actions: torch.Tensor  # (B * target views, A) normal
    pixels: torch.Tensor | None  # like the pictures, uniform in [0, 1), where they are reconstructed
    subset: torch.Tensor | None  # (target_subset,) critics, where not all of them make the target
    aliased: torch.Tensor | None = None  # (distillation_steps, B, A) normal, for critics of the noise


class SAC:
    """Actor, critics, temperature and how they learn.

    Args:
        observation_size, action_size: D and A.
        pixel_shape: (H, W, S * C) of what it sees beside D numbers; None: no pictures.
        aliasing: how a frozen policy executes its actions, which the critics judge then; the replay's
            observations have more than D numbers. None: the critics judge its actions as they are.
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
        pixel_shape: tuple[int, int, int] | None = None,
        aliasing: NoiseAliasing | None = None,
    ) -> None:
        executed_size = aliasing.executed_size if aliasing else None
        check_memory(observation_size, action_size, config, pixel_shape, device, executed_size)
        self.config = config
        self.total_updates = total_updates
        self.updates = 0
        self.device = torch.device(device)
        self.action_size = action_size
        self.executed_size = executed_size or action_size  # of an action, as replay and critics have it
        self.aliasing = aliasing
        self.generator = torch.Generator(self.device).manual_seed(seed)

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            networks = make_networks(observation_size, action_size, config, pixel_shape, executed_size)
        for network in networks:
            if network is not None:
                network.to(self.device)
        self.policy, self.actor, self.encoder, self.critics, self.decoder, self.noise_critics = networks
        self.averaged_actor = copy.deepcopy(self.policy).requires_grad_(False)
        self.critics_target = copy.deepcopy(self.critics).requires_grad_(False)
        slow = self.encoder if config.encoder.tau else torch.nn.Identity()
        self.encoder_target = copy.deepcopy(slow).requires_grad_(False)
        self.log_alpha = torch.tensor(math.log(config.initial_alpha), device=self.device)

        shared = list(self.encoder.parameters())
        self.optimizers = {
            "actor": Adam([*self.actor.parameters(), *(shared if config.encoder.actor_trains else [])]),
            "critics": Adam([*self.critics.parameters(), *shared, *self.decoder.parameters()]),
            "log_alpha": Adam([self.log_alpha]),
        }
        if self.noise_critics:
            self.optimizers["noise_critics"] = Adam(self.noise_critics.parameters())
        # Weights, those that they follow, and how far per update.
        self._averages: list[tuple[list[torch.Tensor], list[torch.Tensor], float]] = [
            (list(average.parameters()), list(followed.parameters()), share)
            for average, followed, share in (
                (self.critics_target, self.critics, config.tau),
                (self.encoder_target, self.encoder, config.encoder.tau),
                (self.averaged_actor, self.policy, 1 - config.actor_ema),
            )
            if share and list(average.parameters())
        ]
        compile_it = config.compile
        if compile_it is None and not aliasing:  # whatever the frozen policy is, it is not compiled
            compile_it = pays(total_updates, self.device, from_pictures=pixel_shape is not None)
        self._compiled_update = compiled(self._update, self.device) if compile_it else None

    @torch.no_grad()
    def act(self, observations: Observed, num_greedy: int = 0) -> torch.Tensor:
        """Actions (n, A) for n observations: the mode in the first `num_greedy` rows, else samples."""
        mean, log_std = self.policy(observations)
        noise = torch.randn(mean.shape, device=self.device, generator=self.generator)
        noise[:num_greedy] = 0.0
        return torch.tanh(mean + log_std.exp() * noise)

    @torch.no_grad()
    def reconstruct(self, observations: Pixels) -> torch.Tensor:
        """What the decoder makes of pictures, where there is one: (B, S * C, H, W), about in [0, 1]."""
        return self.decoder(self.critics.projection(self.encoder(observations))) + 0.5

    def update(self, batch: Batch, imitation: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        """One gradient step of everything.

        Args:
            batch: what is learnt from.
            imitation: (B,) how much the actor imitates each of its actions; None: not at all.

        Returns:
            scalars on the device, not waited for.
        """
        # Randomness and schedules come from outside, so that a compiled update sees the same.
        noise = self._noise(batch)
        rates = self._rates()
        if self._compiled_update:
            rates = Rates(*torch.tensor(rates, device=self.device).unbind())
            metrics = self._compiled_update(batch, noise, rates, imitation)
        else:
            metrics = self._update(batch, noise, rates, imitation)
        self.updates += 1
        return metrics

    def _noise(self, batch: Batch) -> Noise:
        config = self.config
        shape = (1 + config.encoder.target_views, len(batch.rewards), self.action_size)
        normal = torch.randn(shape, device=self.device, generator=self.generator)
        pixels = subset = aliased = None
        if config.target_subset:
            order = torch.rand(config.num_critics, device=self.device, generator=self.generator).argsort()
            subset = order[: config.target_subset]
        if isinstance(batch.observations, Pixels) and config.encoder.reconstruction:
            shape = batch.observations.pixels.shape
            pixels = torch.rand(shape, device=self.device, generator=self.generator)
        if self.aliasing:
            shape = (config.distillation_steps, len(batch.rewards), self.action_size)
            aliased = torch.randn(shape, device=self.device, generator=self.generator)
        return Noise(normal[0], normal[1:].flatten(0, 1), pixels, subset, aliased)

    def _update(
        self, batch: Batch, noise: Noise, rates: Rates, imitation: torch.Tensor | None
    ) -> dict[str, torch.Tensor]:
        alpha = self.log_alpha.exp()
        with torch.no_grad():
            target = self._target(batch, noise, alpha)
        features = self.encoder(batch.observations)
        metrics = self._update_critics(batch, features, target, noise, rates)
        # The views of an observation are alike to the actor: it takes the first.
        if isinstance(batch.observations, Pixels) and self.config.encoder.actor_trains:
            features = self.encoder(Pixels(*(part[: len(batch.rewards)] for part in batch.observations)))
        else:
            features = features[: len(batch.rewards)].detach()
        if noise.aliased is not None:
            metrics |= self._update_noise_critics(features, noise.aliased, rates)
        actions, log_prob = self.actor.sample(features, noise.actions)
        imitated = 0.0
        if imitation is not None:
            imitated = imitation_loss(self.actor.mode(features), batch.actions, imitation)
            metrics["Loss/imitation"] = imitated.detach()
        metrics |= self._update_actor(features, actions, log_prob, alpha, imitated, rates)
        metrics |= self._update_temperature(log_prob.detach(), rates)
        self._update_averages()
        return metrics

    def _target(self, batch: Batch, noise: Noise, alpha: torch.Tensor) -> torch.Tensor:
        """What Q should have been, (B,), averaged over the views of the next observations."""
        views = self.config.encoder.target_views
        features = self.encoder(batch.next_observations)
        actions, log_prob = self.actor.sample(features, noise.next_actions)
        if self.config.encoder.tau:
            features = self.encoder_target(batch.next_observations)
        next_q = self.critics_target(features, self._executed(features, actions))
        next_q = next_q if noise.subset is None else next_q[noise.subset]
        rewards, discounts = _again(batch.rewards, views), _again(batch.discounts, views)
        target = td_target(rewards, discounts, next_q, log_prob, alpha)
        return target if views == 1 else target.view(views, -1).mean(dim=0)

    def _update_critics(
        self, batch: Batch, features: torch.Tensor, target: torch.Tensor, noise: Noise, rates: Rates
    ) -> dict[str, torch.Tensor]:
        """`features` (views * B, ...) of the observations, `target` (B,)."""
        encoder, metrics = self.config.encoder, {}
        seen = features if encoder.critic_trains else features.detach()
        q = self.critics(seen, _again(batch.actions, encoder.views))
        losses = critic_loss(q, _again(target, encoder.views))
        loss = losses.sum()
        if isinstance(self.decoder, Decoder):
            assert isinstance(batch.observations, Pixels) and noise.pixels is not None
            projected = self.critics.projection(features)
            reconstruction = self.decoder.loss(projected, batch.observations, noise.pixels)
            metrics["Loss/reconstruction"] = reconstruction.detach()
            loss = loss + encoder.reconstruction * reconstruction
        self._step("critics", loss, rates)
        losses, means = losses.detach(), q.detach().mean(dim=1)
        last = self.config.num_critics - 1
        return metrics | {
            "Loss/critic1": losses[0],
            "Q/mean_q1": means[0],
            "Loss/critic2": losses[min(1, last)],
            "Q/mean_q2": means[min(1, last)],
        }

    def _executed(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """The learner's actions (B, A) as the critics judge them, (B, A) or (B, C)."""
        return self.aliasing.execute(features, actions) if self.aliasing else actions

    def _noise_q(self, features: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """Q_W of the learner's actions (B, A), (num_critics, B)."""
        assert self.noise_critics
        with torch.no_grad():
            of_noise_0 = self.critics(features, features.new_zeros(len(features), self.executed_size))
        return of_noise_0 + self.noise_critics(features, actions)

    def _update_noise_critics(
        self, features: torch.Tensor, aliased: torch.Tensor, rates: Rates
    ) -> dict[str, torch.Tensor]:
        """Q_W(s, w) towards Q(s, what w executes), critic by critic (DSRL-NA, algorithm 1).

        Args:
            features: (B, D + F + C).
            aliased: (distillation_steps, B, A) from N(0, 1), of which the noise is made.
            rates: of this update.
        """
        assert self.aliasing
        metrics = {}
        for normal in aliased:
            actions = self.aliasing.random_actions(normal)
            with torch.no_grad():
                target = self.critics(features, self._executed(features, actions))
            losses = critic_loss(self._noise_q(features, actions), target)
            self._step("noise_critics", losses.sum(), rates)
            metrics = {"Loss/noise_critic1": losses[0].detach()}
        return metrics

    def _update_actor(
        self,
        features: torch.Tensor,
        actions: torch.Tensor,
        log_prob: torch.Tensor,
        alpha: torch.Tensor,
        imitated: torch.Tensor | float,
        rates: Rates,
    ) -> dict[str, torch.Tensor]:
        """`actions` (B, A) are the actor's, with their `log_prob` (B,); `imitated` adds to its loss."""
        q = self._noise_q(features, actions) if self.aliasing else self.critics(features, actions)
        loss = actor_loss(q, log_prob, alpha)
        self._step("actor", loss + imitated, rates)
        return {"Loss/actor": loss.detach(), "Policy/log_prob": log_prob.detach().mean()}

    def _update_temperature(self, log_prob: torch.Tensor, rates: Rates) -> dict[str, torch.Tensor]:
        gradient = temperature_gradient(log_prob, rates.target_entropy)
        optimizer = self.optimizers["log_alpha"]
        optimizer.step([gradient], rates.alpha_lr, rates.mean_correction, rates.root_correction)
        return {"Alpha": self.log_alpha.exp()}

    def _step(self, name: str, loss: torch.Tensor, rates: Rates) -> None:
        optimizer = self.optimizers[name]
        gradients = list(torch.autograd.grad(loss, optimizer.weights))
        if self.config.grad_clip:
            norm = torch.stack([gradient.square().sum() for gradient in gradients]).sum().sqrt()
            scale = (self.config.grad_clip / (norm + 1e-6)).clamp(max=1.0)
            gradients = [scale * gradient for gradient in gradients]
        optimizer.step(gradients, rates.lr, rates.mean_correction, rates.root_correction)

    @torch.no_grad()
    def _update_averages(self) -> None:
        for weights, followed, share in self._averages:
            torch._foreach_lerp_(weights, followed, share)

    def _rates(self) -> Rates:
        """Those of the next update."""
        config, done = self.config, min(self.updates / self.total_updates, 1.0)
        cosine = 0.5 * (1 + math.cos(math.pi * done))
        scale = config.final_lr_fraction + (1 - config.final_lr_fraction) * cosine
        entropies = (config.target_entropy, config.final_target_entropy)
        target_entropy = float(np.interp(done, config.anneal_entropy, entropies))
        return Rates(
            scale * config.lr, scale * config.alpha_lr, target_entropy, *corrections(self.updates + 1)
        )

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything that an exact continuation needs, by name, as tensors."""
        state = {"log_alpha": self.log_alpha, "generator": self.generator.get_state()}
        for name, module in self._modules().items():
            state |= {f"{name}.{key}": tensor for key, tensor in module.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            state |= {f"optimizer.{name}.{key}": tensor for key, tensor in optimizer.state_dict().items()}
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor], updates: int) -> None:
        """Continue from `state_dict` after this many updates."""
        self.updates = updates
        self.log_alpha.copy_(state["log_alpha"])
        restore_generator(self.generator, state["generator"], updates)
        for name, module in self._modules().items():
            module.load_state_dict({key: state[f"{name}.{key}"] for key in module.state_dict()})
        for name, optimizer in self.optimizers.items():
            optimizer.load_state_dict(part(state, f"optimizer.{name}"))

    def _modules(self) -> dict[str, torch.nn.Module]:
        modules: dict[str, torch.nn.Module] = {
            "actor": self.actor,
            "averaged_actor": self.averaged_actor,
            "critics": self.critics,
            "critics_target": self.critics_target,
            "encoder": self.encoder,
            "encoder_target": self.encoder_target,
            "decoder": self.decoder,
        }
        if self.noise_critics:
            modules["noise_critics"] = self.noise_critics
        return modules


def _again(rows: torch.Tensor, times: int) -> torch.Tensor:
    """(B, ...) -> (times * B, ...)."""
    return rows if times == 1 else rows.repeat(times, *[1] * (rows.ndim - 1))
