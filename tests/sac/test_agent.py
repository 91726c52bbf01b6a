import math
import shutil
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Independent, Normal, TanhTransform, TransformedDistribution
from torch.nn import functional as F

from common.checkpoint import save_tensors
from common.untrusted import load_tensors
from sac.agent import SAC
from sac.config import AgentConfig
from sac.critic import StackedLayerNorm, StackedLinear
from sac.replay_buffer import Batch

OBSERVATION_SIZE, ACTION_SIZE = 5, 2
CONFIG = AgentConfig(
    hidden_sizes=(32, 16),
    lr=1e-3,
    alpha_lr=1e-2,
    final_lr_fraction=1.0,
    final_target_entropy=-2.0,
    actor_ema=0.0,
    batch_size=64,
)
SETTLING = replace(CONFIG, final_lr_fraction=0.1, final_target_entropy=-8.0, actor_ema=0.8)


def make_agent(config: AgentConfig, seed: int = 0, total_updates: int = 20) -> SAC:
    return SAC(OBSERVATION_SIZE, ACTION_SIZE, config, total_updates, seed)


def make_batches(count: int, size: int = 64) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return [
        Batch(
            observations=normal(size, OBSERVATION_SIZE),
            actions=normal(size, ACTION_SIZE).tanh(),
            rewards=normal(size),
            next_observations=normal(size, OBSERVATION_SIZE),
            discounts=0.9 * (normal(size) > -1.0).float(),
        )
        for _ in range(count)
    ]


class TextbookSAC:
    """The update of Haarnoja et al. 2018, a network and an optimiser at a time, in the order of the paper.

    It begins with the weights of `agent` and draws the same noise.
    """

    def __init__(self, agent: SAC) -> None:
        self.config = agent.config
        self.updates, self.total_updates = 0, agent.total_updates
        self.generator = torch.Generator().set_state(agent.generator.get_state())
        self.actor = deepcopy(agent.actor.network)
        self.averaged_actor = deepcopy(self.actor)
        self.critics = [separate_critic(agent, i) for i in range(self.config.num_critics)]
        self.targets = deepcopy(self.critics)
        self.log_alpha = torch.tensor(math.log(self.config.initial_alpha), requires_grad=True)
        of_critics = [weight for critic in self.critics for weight in critic.parameters()]
        self.weights = {
            "actor": list(self.actor.parameters()),
            "critics": of_critics,
            "alpha": [self.log_alpha],
        }
        self.optimizers, self.schedules = {}, []
        for name, weights in self.weights.items():
            lr = self.config.alpha_lr if name == "alpha" else self.config.lr
            self.optimizers[name] = torch.optim.Adam(weights, lr=lr)
            self.schedules.append(
                torch.optim.lr_scheduler.CosineAnnealingLR(
                    self.optimizers[name], agent.total_updates, lr * self.config.final_lr_fraction
                )
            )

    def update(self, batch: Batch, imitation: torch.Tensor | None = None) -> None:
        noise, next_noise = torch.randn(2, *batch.actions.shape, generator=self.generator)
        subset = range(self.config.num_critics)
        if self.config.target_subset:
            order = torch.rand(self.config.num_critics, generator=self.generator).argsort()
            subset = order[: self.config.target_subset]
        alpha = self.log_alpha.exp().item()

        with torch.no_grad():
            next_actions, next_log_prob = self.policy(batch.next_observations, next_noise)
            next_q = self.smallest([self.targets[i] for i in subset], batch.next_observations, next_actions)
            target = batch.rewards + batch.discounts * (next_q - alpha * next_log_prob)
        losses = [
            F.mse_loss(critic_value(c, batch.observations, batch.actions), target) for c in self.critics
        ]
        self.descend("critics", sum(losses))

        actions, log_prob = self.policy(batch.observations, noise)
        # The new critics judge the actions of the actor that is about to change.
        q = self.smallest(self.critics, batch.observations, actions)
        loss = (alpha * log_prob - q).mean()
        if imitation is not None:
            modes = self.actor(batch.observations)[:, : batch.actions.shape[1]].tanh()
            distances = [
                (ours - theirs) @ (ours - theirs) for ours, theirs in zip(modes, batch.actions, strict=True)
            ]
            loss = loss + sum(w * d for w, d in zip(imitation, distances, strict=True)) / len(distances)
        self.descend("actor", loss)
        self.descend("alpha", (-self.log_alpha * (log_prob.detach() + self.target_entropy())).mean())

        for critic, slow in zip(self.critics, self.targets, strict=True):
            blend(slow, critic, self.config.tau)
        blend(self.averaged_actor, self.actor, 1 - self.config.actor_ema)
        for schedule in self.schedules:
            schedule.step()
        self.updates += 1

    def target_entropy(self) -> float:
        ends = self.config.target_entropy, self.config.final_target_entropy
        return float(np.interp(self.updates / self.total_updates, self.config.anneal_entropy, ends))

    def policy(self, observations: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.actor(observations).chunk(2, dim=1)
        squash = TanhTransform(cache_size=1)
        normal = Normal(mean, log_std.clamp(-5, 2).exp())
        actions = squash(normal.loc + normal.scale * noise)
        return actions, Independent(TransformedDistribution(normal, squash), 1).log_prob(actions)

    def smallest(self, critics: list, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        return (
            torch.stack([critic_value(critic, observations, actions) for critic in critics]).min(dim=0).values
        )

    def descend(self, name: str, loss: torch.Tensor) -> None:
        weights = self.weights[name]
        gradients = torch.autograd.grad(loss, weights)
        norm = math.sqrt(sum((gradient**2).sum().item() for gradient in gradients))
        clip = self.config.grad_clip if name != "alpha" else 0.0
        scale = min(1.0, clip / (norm + 1e-6)) if clip else 1.0  # PyTorch adds 1e-6
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = scale * gradient
        self.optimizers[name].step()


def separate_critic(agent: SAC, index: int) -> nn.Sequential:
    layers = []
    for layer in agent.critics.network:
        if isinstance(layer, StackedLinear):
            own = nn.Linear(*layer.weight.shape[1:])
            own.weight.data, own.bias.data = layer.weight[index].T.clone(), layer.bias[index, 0].clone()
        else:
            own = nn.LayerNorm(layer.weight.shape[-1]) if isinstance(layer, StackedLayerNorm) else nn.ReLU()
        layers.append(own)
    return nn.Sequential(*layers)


def critic_value(critic: nn.Sequential, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    return critic(torch.cat([observations, actions], dim=1))[:, 0]


@torch.no_grad()
def blend(slow: nn.Module, fast: nn.Module, share: float) -> None:
    for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
        old.copy_((1 - share) * old + share * new)


def unstacked(parameters: list[torch.Tensor], index: int) -> list[torch.Tensor]:
    """What one critic has of stacked weights or gradients, in the shapes of `nn.Linear`, `nn.LayerNorm`."""
    own = [parameter[index].squeeze(0) for parameter in parameters]
    return [parameter.T if parameter.ndim == 2 else parameter for parameter in own]


CONFIGS = {
    "plain": CONFIG,
    "one critic": replace(CONFIG, num_critics=1),
    "redq": replace(CONFIG, num_critics=4, target_subset=2, critic_layer_norm=True),
    "clipped": replace(CONFIG, grad_clip=0.05),
    "settling": SETTLING,
}


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("imitates", [False, True])
def test_updates_are_those_of_the_textbook(double_precision, config, imitates):
    agent = make_agent(config)
    textbook = TextbookSAC(agent)
    imitation = (torch.arange(64.0) - 20).relu() / 32 if imitates else None
    for batch in make_batches(20):
        agent.update(batch, imitation)
        textbook.update(batch, imitation)

    def assert_equal(ours, theirs):
        for our, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-7, atol=1e-8)

    assert_equal(agent.actor.parameters(), textbook.actor.parameters())
    assert_equal(agent.averaged_actor.parameters(), textbook.averaged_actor.parameters())
    assert_equal([agent.log_alpha], [textbook.log_alpha])
    # Moments of gradients that were wrong by a factor would be seen here alone.
    assert_equal(*moments(agent, textbook, "actor"))
    for i in range(config.num_critics):
        assert_equal(unstacked(agent.critics.parameters(), i), textbook.critics[i].parameters())
        assert_equal(unstacked(agent.critics_target.parameters(), i), textbook.targets[i].parameters())
        ours, theirs = moments(agent, textbook, "critics")
        own = slice(i * len(theirs) // config.num_critics, (i + 1) * len(theirs) // config.num_critics)
        assert_equal(unstacked(ours, i), theirs[own])


def moments(agent: SAC, textbook: TextbookSAC, name: str) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """The running means of the gradients, ours and those of `torch.optim.Adam`."""
    theirs = textbook.optimizers[name].state.values()
    return agent.optimizers[name].means, [moment["exp_avg"] for moment in theirs]


def test_learning_rates_fall_along_a_cosine_and_then_stay():
    agent = make_agent(replace(CONFIG, final_lr_fraction=0.1), total_updates=4)
    rates = []
    for batch in make_batches(7):
        rates.append(agent._rates()[:2])
        agent.update(batch)
    share = [1.0, 0.1 + 0.9 * (2 + 2**0.5) / 4, 0.55, 0.1 + 0.9 * (2 - 2**0.5) / 4, 0.1, 0.1, 0.1]
    expected = torch.tensor(share)[:, None] * torch.tensor([CONFIG.lr, CONFIG.alpha_lr])
    torch.testing.assert_close(torch.tensor(rates), expected)


def test_reported_numbers_are_those_of_the_update():
    agent = make_agent(CONFIG)
    textbook, (batch,) = TextbookSAC(agent), make_batches(1)
    with torch.no_grad():
        q = [critic_value(critic, batch.observations, batch.actions).mean() for critic in textbook.critics]
        noise = torch.randn(
            2 * len(batch.rewards),
            ACTION_SIZE,
            generator=torch.Generator().set_state(agent.generator.get_state()),
        )
        log_prob = textbook.policy(batch.observations, noise[: len(batch.rewards)])[1].mean()
    metrics = agent.update(batch)
    torch.testing.assert_close([metrics["Q/mean_q1"], metrics["Q/mean_q2"]], q)
    torch.testing.assert_close(metrics["Policy/log_prob"], log_prob)
    torch.testing.assert_close(metrics["Alpha"], agent.log_alpha.detach().exp())


@pytest.mark.parametrize(("target_entropy", "direction"), [(5.0, 1), (-50.0, -1)], ids=["up", "down"])
def test_temperature_moves_towards_the_target_entropy(target_entropy, direction):
    agent = make_agent(replace(CONFIG, target_entropy=target_entropy, final_target_entropy=target_entropy))
    alphas = [float(agent.update(batch)["Alpha"]) for batch in make_batches(10)]
    assert alphas == sorted(alphas, reverse=direction < 0) and alphas[0] != alphas[-1]


def test_saved_and_loaded_it_goes_on_bit_for_bit(tmp_path):
    config = replace(SETTLING, num_critics=4, target_subset=2)
    agent, batches = make_agent(config), make_batches(10)
    for batch in batches[:5]:
        agent.update(batch)
    save_tensors(tmp_path / "agent", agent.state_dict())
    restored = make_agent(config, seed=1)
    restored.load_state_dict(load_tensors(tmp_path / "agent"), updates=5)

    observations = batches[0].observations
    for each in (agent, restored):
        for batch in batches[5:]:
            each.update(batch)
    assert torch.equal(agent.act(observations), restored.act(observations))
    ours, theirs = restored.state_dict(), agent.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_the_seed_decides_everything():
    def weights(seed: int) -> torch.Tensor:
        agent = make_agent(CONFIG, seed)
        for batch in make_batches(2):
            agent.update(batch)
        return nn.utils.parameters_to_vector(agent.actor.parameters())

    torch.manual_seed(7)
    first = weights(0)
    torch.manual_seed(8)
    assert torch.equal(first, weights(0)) and not torch.equal(first, weights(1))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler")
def test_compiled_equals_eager():
    """In float32, as it is used; a hundredth of an update of these settings is 1e-5."""
    config = replace(SETTLING, hidden_sizes=(8,), grad_clip=0.5, num_critics=3, target_subset=2)
    agents = [make_agent(replace(config, compile=compile_it)) for compile_it in (False, True)]
    for batch in make_batches(20):
        eager, compiled = (agent.update(batch, torch.arange(64.0) / 64) for agent in agents)
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    theirs, ours = (agent.state_dict() for agent in agents)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_acting_is_greedy_in_the_first_rows_and_sampled_in_the_others():
    agent, observations = make_agent(CONFIG), torch.randn(6, OBSERVATION_SIZE)
    noise = torch.randn(6, ACTION_SIZE, generator=torch.Generator().set_state(agent.generator.get_state()))
    actions = agent.act(observations, num_greedy=2)
    mean, log_std = agent.actor(observations)
    expected = torch.cat([mean[:2], mean[2:] + log_std.exp()[2:] * noise[2:]])
    torch.testing.assert_close(actions, expected.tanh())
