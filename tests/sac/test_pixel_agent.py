"""SAC from pictures beside a second implementation: a network, a view and an optimiser at a time."""

import shutil
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from common.checkpoint import save_tensors
from common.untrusted import load_tensors
from sac.agent import SAC
from sac.config import AgentConfig
from sac.encoder import Decoder, Encoder, EncoderConfig, Projection
from sac.replay_buffer import Batch, Pixels
from tests.sac.test_agent import CONFIG, TextbookSAC, blend, critic_value, unstacked

SIDE, CHANNELS, NUMBERS, ACTIONS, ROWS = 10, 2, 3, 2, 12
ENCODER = EncoderConfig(filters=(4, 5), kernels=(3, 2), strides=(2, 1), features=6)
PIXELS = replace(CONFIG, batch_size=ROWS, actor_ema=0.8, encoder=ENCODER)
TINY = {"latent_penalty": 0.1, "decoder_weight_decay": 0.01}  # of a weight at which they are seen

CONFIGS = {
    "plain": PIXELS,
    "redq, clipped": replace(PIXELS, num_critics=3, target_subset=2, critic_layer_norm=True, grad_clip=0.05),
    "target encoder": replace(PIXELS, encoder=replace(ENCODER, tau=0.3)),
    "views": replace(PIXELS, encoder=replace(ENCODER, views=2, target_views=3, tau=0.2)),
    "the actor trains it too": replace(PIXELS, encoder=replace(ENCODER, actor_trains=True)),
    "reconstruction": replace(PIXELS, encoder=replace(ENCODER, reconstruction=0.7, **TINY)),
    "all": replace(
        PIXELS,
        encoder=replace(
            ENCODER, views=2, target_views=2, tau=0.3, reconstruction=0.7, actor_trains=True, **TINY
        ),
    ),
    "reconstruction alone trains it": replace(
        PIXELS, encoder=replace(ENCODER, reconstruction=0.7, critic_trains=False, **TINY)
    ),
}


def make_agent(config: AgentConfig, seed: int = 0) -> SAC:
    return SAC(NUMBERS, ACTIONS, config, 20, seed, pixel_shape=(SIDE, SIDE, CHANNELS))


def make_batches(config: AgentConfig, count: int) -> list[Batch]:
    rng = np.random.default_rng(1)
    kind = torch.get_default_dtype()

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(rng.normal(size=shape)).to(kind)

    def see(views: int) -> Pixels:
        pictures = rng.integers(0, 256, (views * ROWS, SIDE, SIDE, CHANNELS)) / 255
        return Pixels(
            torch.from_numpy(pictures).to(kind).permute(0, 3, 1, 2), normal(ROWS, NUMBERS).repeat(views, 1)
        )

    return [
        Batch(
            observations=see(config.encoder.views),
            actions=normal(ROWS, ACTIONS).tanh(),
            rewards=normal(ROWS),
            next_observations=see(config.encoder.target_views),
            discounts=0.9 * (normal(ROWS) > -1.0).to(kind),
        )
        for _ in range(count)
    ]


class TextbookPixelSAC(TextbookSAC):
    """The same from pictures: the critics' loss trains the encoder, and each loss encodes what it needs."""

    def __init__(self, agent: SAC) -> None:
        super().__init__(agent)
        assert isinstance(agent.encoder, Encoder)
        self.encoder = plain(agent.encoder.network)
        self.target_encoder = deepcopy(self.encoder)
        self.critic_head, self.actor_head = (
            nn.Sequential(plain(head.linear), plain(head.norm), nn.Tanh())
            for head in (agent.critics.projection, agent.actor.projection)
            if isinstance(head, Projection)
        )
        self.target_head = deepcopy(self.critic_head)
        self.averaged = [deepcopy(self.encoder), deepcopy(self.actor_head), deepcopy(self.actor)]
        self.decoder = None
        if isinstance(agent.decoder, Decoder):
            self.decoder = nn.Sequential(
                plain(agent.decoder.linear),
                nn.Unflatten(1, agent.decoder.first),
                plain(agent.decoder.network),
            )
        of_actor = [self.actor, self.actor_head]
        of_critics = [*self.critics, self.critic_head, self.encoder]
        if self.config.encoder.actor_trains:
            of_actor.append(self.encoder)
        if self.decoder:
            of_critics.append(self.decoder)
        for name, modules in (("actor", of_actor), ("critics", of_critics)):
            self.weights[name] = [weight for module in modules for weight in module.parameters()]
            self.optimizers[name] = torch.optim.Adam(self.weights[name], lr=self.config.lr)
        self.schedules = []  # the learning rates stay

    def update(self, batch: Batch) -> None:
        config, rows = self.config, len(batch.rewards)
        encoder = config.encoder
        assert isinstance(batch.observations, Pixels) and isinstance(batch.next_observations, Pixels)
        shape = (1 + encoder.target_views, rows, ACTIONS)
        noise, *next_noise = torch.randn(shape, generator=self.generator)
        subset = range(config.num_critics)
        if config.target_subset:
            subset = torch.rand(config.num_critics, generator=self.generator).argsort()[
                : config.target_subset
            ]
        alpha = self.log_alpha.exp().item()

        target = torch.zeros(rows)
        with torch.no_grad():
            views = split(batch.next_observations, rows)
            for view, each in zip(views, next_noise, strict=True):
                actions, log_prob = self.policy(self.see(self.encoder, self.actor_head, view), each)
                by = self.target_encoder if encoder.tau else self.encoder
                seen = self.see(by, self.target_head, view)
                q = self.smallest([self.targets[i] for i in subset], seen, actions)
                target += (batch.rewards + batch.discounts * (q - alpha * log_prob)) / len(views)

        loss = torch.tensor(0.0)
        views = split(batch.observations, rows)
        for view in views:
            seen = self.see(self.encoder, self.critic_head, view, trains=encoder.critic_trains)
            for critic in self.critics:
                loss = loss + F.mse_loss(critic_value(critic, seen, batch.actions), target) / len(views)
        if self.decoder:
            loss = loss + encoder.reconstruction * self.reconstruction(batch.observations)
        before = deepcopy(self.encoder)
        self.descend("critics", loss)

        # The actor sees what the critics saw, unless it changes how it sees.
        by = self.encoder if encoder.actor_trains else before
        seen = self.see(by, self.actor_head, views[0], trains=encoder.actor_trains)
        actions, log_prob = self.policy(seen, noise)
        q = self.smallest(
            self.critics, self.see(by, self.critic_head, views[0], encoder.actor_trains), actions
        )
        self.descend("actor", (alpha * log_prob - q).mean())
        self.descend("alpha", (-self.log_alpha * (log_prob.detach() + self.target_entropy())).mean())

        for slow, fast in zip(self.targets, self.critics, strict=True):
            blend(slow, fast, config.tau)
        blend(self.target_head, self.critic_head, config.tau)
        if encoder.tau:
            blend(self.target_encoder, self.encoder, encoder.tau)
        for slow, fast in zip(self.averaged, (self.encoder, self.actor_head, self.actor), strict=True):
            blend(slow, fast, 1 - config.actor_ema)
        self.updates += 1

    def see(self, encoder: nn.Module, head: nn.Module, view: Pixels, trains: bool = True) -> torch.Tensor:
        features = encoder(view.pixels - 0.5).flatten(1)
        return torch.cat([head(features if trains else features.detach()), view.numbers], dim=1)

    def reconstruction(self, seen: Pixels) -> torch.Tensor:
        """SAC+AE's, with the weight decay as a part of the loss."""
        assert self.decoder
        encoder = self.config.encoder
        noise = torch.rand(seen.pixels.shape, generator=self.generator)
        target = (torch.floor(torch.round(255 * seen.pixels) / 8) + noise) / 32 - 0.5
        latents = self.critic_head(self.encoder(seen.pixels - 0.5).flatten(1))
        loss = F.mse_loss(self.decoder(latents), target)
        loss = loss + encoder.latent_penalty * (0.5 * latents.pow(2).sum(1)).mean()
        weights = torch.cat([weight.flatten() for weight in self.decoder.parameters()])
        return loss + encoder.decoder_weight_decay * 0.5 * (weights @ weights)


def plain(module: nn.Module) -> nn.Module:
    """A copy, in the usual layout of memory."""
    return deepcopy(module).to(memory_format=torch.contiguous_format)  # pyright: ignore[reportCallIssue]


def split(seen: Pixels, rows: int) -> list[Pixels]:
    """Its views, one after the other."""
    return [Pixels(*parts) for parts in zip(*(part.split(rows) for part in seen), strict=True)]


def named(agent: SAC, textbook: TextbookPixelSAC) -> dict[str, tuple[list, list]]:
    """Weights of both, in the same order."""
    averaged = agent.averaged_actor
    actor, head = averaged.actor, averaged.actor.projection
    pairs = {
        "encoder": (agent.encoder, textbook.encoder),
        "actor": (agent.actor.network, textbook.actor),
        "actor's projection": (agent.actor.projection, textbook.actor_head),
        "critics' projection": (agent.critics.projection, textbook.critic_head),
        "targets' projection": (agent.critics_target.projection, textbook.target_head),
        "averaged encoder": (averaged.encoder, textbook.averaged[0]),
        "averaged projection": (head, textbook.averaged[1]),
        "averaged actor": (actor.network, textbook.averaged[2]),
    }
    if agent.config.encoder.tau:
        pairs["target encoder"] = (agent.encoder_target, textbook.target_encoder)
    if textbook.decoder:
        pairs["decoder"] = (agent.decoder, textbook.decoder)
    weights = {name: tuple(list(each.parameters()) for each in pair) for name, pair in pairs.items()}
    for i in range(agent.config.num_critics):
        for name, ours, theirs in (
            ("critic", agent.critics, textbook.critics),
            ("target", agent.critics_target, textbook.targets),
        ):
            own = unstacked(list(ours.network.parameters()), i)
            weights[f"{name} {i}"] = own, list(theirs[i].parameters())
    return weights


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_updates_are_those_of_the_textbook(double_precision, config):
    agent = make_agent(config)
    textbook = TextbookPixelSAC(agent)
    begin = {name: [w.clone() for w in ours] for name, (ours, _) in named(agent, textbook).items()}
    for batch in make_batches(config, 8):
        agent.update(batch)
        textbook.update(batch)
    torch.testing.assert_close(agent.log_alpha, textbook.log_alpha.detach(), rtol=1e-7, atol=1e-8)
    for name, (ours, theirs) in named(agent, textbook).items():
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8, msg=name)
        assert all((old != new).any() for old, new in zip(begin[name], ours, strict=True)), name


@pytest.mark.parametrize("trains", [False, True])
def test_the_actors_loss_moves_the_encoder_only_if_asked(trains):
    config = replace(PIXELS, encoder=replace(ENCODER, actor_trains=trains))
    agent, (batch,) = make_agent(config), make_batches(config, 1)
    agent._update_critics = lambda *_: {}  # pyright: ignore[reportAttributeAccessIssue]
    before = deepcopy(agent.state_dict())
    agent.update(batch)
    moved = {name for name, tensor in agent.state_dict().items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("actor.") for name in moved)
    assert any(name.startswith("encoder.") for name in moved) == trains
    assert not any(name.startswith("critics.") for name in moved)


def test_reconstruction_alone_leaves_the_encoder_to_the_decoder():
    """Critics with other rewards are others behind the same encoder."""
    config = CONFIGS["reconstruction alone trains it"]
    agents = [make_agent(config) for _ in range(2)]
    (batch,) = make_batches(config, 1)
    for agent, scale in zip(agents, (1.0, 5.0), strict=True):
        agent.update(batch._replace(rewards=scale * batch.rewards))
    ours, theirs = (agent.state_dict() for agent in agents)
    for name in ours:
        if name.startswith(("encoder.", "decoder.")):
            torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=0)
    assert not torch.equal(ours["critics.network.0.weight"], theirs["critics.network.0.weight"])


@pytest.mark.parametrize("name", ["plain", "all"])
def test_saved_and_loaded_it_goes_on_bit_for_bit(tmp_path, name):
    config = CONFIGS[name]
    agent, batches = make_agent(config), make_batches(config, 6)
    for batch in batches[:3]:
        agent.update(batch)
    save_tensors(tmp_path / "agent", agent.state_dict())
    restored = make_agent(config, seed=1)
    restored.load_state_dict(load_tensors(tmp_path / "agent"), updates=3)
    for each in (agent, restored):
        for batch in batches[3:]:
            each.update(batch)
    first = Pixels(*(part[:ROWS] for part in batches[0].observations))
    assert torch.equal(agent.act(first), restored.act(first))
    ours, theirs = restored.state_dict(), agent.state_dict()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


@pytest.mark.slow
def test_compiled_equals_eager(captured):
    """In float32, as it is used; a hundredth of an update of these settings is 1e-5."""
    config = replace(CONFIGS["reconstruction"], hidden_sizes=(8,))
    agents = [make_agent(replace(config, compile=compile_it)) for compile_it in (False, True)]
    for batch in make_batches(config, 3):
        eager, compiled = (agent.update(batch) for agent in agents)
        torch.testing.assert_close(compiled, eager, rtol=1e-4, atol=1e-5)
    theirs, ours = (agent.state_dict() for agent in agents)
    for name, tensor in theirs.items():
        torch.testing.assert_close(ours[name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_only_a_training_that_is_long_enough_is_compiled(monkeypatch):
    """From pictures earlier than from numbers; nothing is compiled before the first update."""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    shape = (SIDE, SIDE, CHANNELS)
    for updates, pixel_shape, expected in (
        (2_000, shape, False),
        (5_000, shape, True),
        (5_000, None, False),
        (10_000, None, True),
    ):
        agent = SAC(NUMBERS, ACTIONS, PIXELS, updates, 0, pixel_shape=pixel_shape)
        assert (agent._compiled_update is not None) == expected
