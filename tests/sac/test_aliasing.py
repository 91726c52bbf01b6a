"""SAC with critics of executed actions: against DSRL-NA written out, and where the answer is known."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from envs.aliasing import NoiseAliasing
from envs.pusht.task import PushT
from envs.steering import Steering, SteeringConfig
from sac.agent import SAC
from sac.config import AgentConfig
from sac.replay_buffer import Batch
from tests.sac import test_agent
from tests.sac.test_agent import TextbookSAC, blend, critic_value, separate_critic, unstacked

SEEN, INPUTS, STEPS, CHUNK, BOUND = 3, 2, 3, 4, 1.5
CONFIG = replace(test_agent.CONFIG, noise_aliasing=True, distillation_steps=2, critic_layer_norm=True)


class Bent:
    """Chunks of four steps of two numbers, bent by a tanh; several noises lead to nearly the same."""

    noise_shape, chunk_size, n_action_steps = (CHUNK, 2), CHUNK, STEPS
    image_size, sampled, history, sees = 0, False, 1, ("x",)

    def seed_slots(self, seeds):
        pass

    def reset(self, slots):
        pass

    def act(self, observations):
        return self.chunk(observations, np.zeros((len(observations["x"]), *self.noise_shape)))[:, 0]

    def chunk(self, observations, noise):
        return self.chunk_of(torch.tensor(observations["x"]), torch.tensor(noise)).numpy()

    def inputs(self, observations):
        return observations["x"].astype(np.float32)

    def chunk_of(self, inputs, noise):
        return 100 * inputs[:, None] + 20 * torch.tanh(noise + inputs[:, None, :1])


def make_agent(config: AgentConfig = CONFIG, seed: int = 0, total_updates: int = 20) -> SAC:
    steering = Steering(Bent(), SteeringConfig(rank=2, bound=BOUND), PushT())
    starts = {"x": np.random.default_rng(0).normal(size=(32, INPUTS))}
    aliasing = NoiseAliasing(steering, starts, SEEN)
    return SAC(SEEN, steering.action_size, config, total_updates, seed, aliasing=aliasing)


def make_observations(generator: torch.Generator, size: int) -> torch.Tensor:
    """Those of the replay: what the learner sees, the inputs and the chunk of noise 0."""
    seen = torch.randn(size, SEEN, generator=generator)
    inputs = seen[:, :INPUTS]
    middle = Bent().chunk_of(inputs, torch.zeros(size, CHUNK, 2))[:, :STEPS].flatten(1)
    return torch.cat([seen, inputs, middle], dim=1)


def executed(agent: SAC, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
    """What the policy does, sample by sample."""
    rows = []
    for observation, action in zip(observations, actions, strict=True):
        noise = BOUND * sum(
            float(number) * torch.tensor(direction)
            for number, direction in zip(action, agent.aliasing.steering.directions, strict=True)
        )
        x = observation[SEEN : SEEN + INPUTS]
        chunk, middle = (20 * torch.tanh(each + x[0]) for each in (noise.to(x), torch.zeros(CHUNK, 2)))
        rows.append(((chunk - middle)[:STEPS] / torch.tensor(agent.aliasing.spread).to(x)).flatten())
    return torch.stack(rows)


def make_batches(count: int, size: int = 64) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    return [
        Batch(
            observations=make_observations(generator, size),
            actions=torch.randn(size, 2 * STEPS, generator=generator),
            rewards=torch.randn(size, generator=generator),
            next_observations=make_observations(generator, size),
            discounts=0.9 * (torch.randn(size, generator=generator) > -1.0).float(),
        )
        for _ in range(count)
    ]


class TextbookNA(TextbookSAC):
    """Algorithm 1 of Wagenmaker et al. 2025 on top of soft actor-critic."""

    def __init__(self, agent: SAC) -> None:
        super().__init__(agent)
        self.agent = agent
        of_noise = SimpleNamespace(critics=agent.noise_critics)
        self.noise_critics = [separate_critic(of_noise, i) for i in range(self.config.num_critics)]
        self.weights["noise"] = [weight for critic in self.noise_critics for weight in critic.parameters()]
        self.optimizers["noise"] = torch.optim.Adam(self.weights["noise"], lr=self.config.lr)

    def update(self, batch: Batch, imitation: torch.Tensor | None = None) -> None:
        size, num_actions = len(batch.rewards), self.agent.action_size
        noise, next_noise = torch.randn(2, size, num_actions, generator=self.generator)
        aliased = torch.randn(self.config.distillation_steps, size, num_actions, generator=self.generator)
        seen, next_seen = batch.observations[:, :SEEN], batch.next_observations[:, :SEEN]
        alpha = self.log_alpha.exp().item()

        with torch.no_grad():
            actions, log_prob = self.policy(next_seen, next_noise)
            played = executed(self.agent, batch.next_observations, actions)
            next_q = self.smallest(self.targets, next_seen, played)
            target = batch.rewards + batch.discounts * (next_q - alpha * log_prob)
        self.descend(
            "critics", sum(F.mse_loss(critic_value(c, seen, batch.actions), target) for c in self.critics)
        )

        for normal in aliased:
            actions = (normal / BOUND).clamp(-1, 1)
            played, loss = executed(self.agent, batch.observations, actions), torch.zeros(())
            for critic, taught in zip(self.critics, self.noise_critics, strict=True):
                target = critic_value(critic, seen, played).detach()
                loss = loss + F.mse_loss(self.noise_value(critic, taught, seen, actions), target)
            self.descend("noise", loss)

        actions, log_prob = self.policy(seen, noise)
        both = zip(self.critics, self.noise_critics, strict=True)
        q = torch.stack([self.noise_value(*each, seen, actions) for each in both]).min(dim=0).values
        self.descend("actor", (alpha * log_prob - q).mean())
        self.descend("alpha", (-self.log_alpha * (log_prob.detach() + self.target_entropy())).mean())
        for critic, slow in zip(self.critics, self.targets, strict=True):
            blend(slow, critic, self.config.tau)
        blend(self.averaged_actor, self.actor, 1 - self.config.actor_ema)
        self.updates += 1

    def noise_value(self, critic, taught, seen, actions):
        return critic_value(critic, seen, torch.zeros(len(seen), 2 * STEPS)).detach() + critic_value(
            taught, seen, actions
        )


def test_updates_are_those_of_the_textbook(double_precision):
    agent = make_agent()
    textbook = TextbookNA(agent)
    for batch in make_batches(6):
        agent.update(batch)
        textbook.update(batch)

    def assert_equal(ours, theirs):
        for our, their in zip(ours, theirs, strict=True):
            torch.testing.assert_close(our, their, rtol=1e-7, atol=1e-8)

    assert agent.noise_critics
    assert_equal(agent.actor.parameters(), textbook.actor.parameters())
    assert_equal([agent.log_alpha], [textbook.log_alpha])
    for i in range(CONFIG.num_critics):
        assert_equal(unstacked(list(agent.critics.parameters()), i), textbook.critics[i].parameters())
        assert_equal(unstacked(list(agent.critics_target.parameters()), i), textbook.targets[i].parameters())
        assert_equal(
            unstacked(list(agent.noise_critics.parameters()), i), textbook.noise_critics[i].parameters()
        )


def test_critics_of_the_noise_learn_what_the_others_say_and_the_actor_follows():
    """A decision whose reward falls with the square of its distance from an executed action."""
    config = replace(CONFIG, lr=5e-3, target_entropy=-8.0, final_target_entropy=-8.0, initial_alpha=0.01)
    agent = make_agent(config, total_updates=300)
    aliasing, generator = agent.aliasing, torch.Generator().manual_seed(2)
    assert aliasing and agent.noise_critics

    def draw(size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        observations = make_observations(generator, size)
        actions = aliasing.random_actions(torch.randn(size, 4, generator=generator))
        return observations, actions, aliasing.execute(observations, actions)

    def reward(played: torch.Tensor) -> torch.Tensor:
        return -(played - 0.7).square().mean(dim=1)

    for _ in range(300):
        observations, _, played = draw(64)
        agent.update(Batch(observations, played, reward(played), observations, torch.zeros(64)))
    observations, actions, played = draw(500)
    with torch.no_grad():
        taught = agent._noise_q(observations, actions)
        teacher = agent.critics(observations, played)
        chosen = aliasing.execute(observations, agent.actor.mode(observations))
    assert (taught - teacher).square().mean() < 0.1 * teacher.var()
    assert (teacher - reward(played)).square().mean() < 0.1 * reward(played).var()
    assert reward(chosen).mean() > reward(played).quantile(0.9)


@pytest.mark.parametrize("between", [False, True])
def test_saved_and_loaded_it_goes_on_bit_for_bit(between):
    agent, batches = make_agent(), make_batches(6)
    for batch in batches[:3]:
        agent.update(batch)
    restored = make_agent(seed=1)
    restored.load_state_dict({name: value.clone() for name, value in agent.state_dict().items()}, updates=3)
    for each in (agent, restored):
        for batch in batches[3:] if between else []:
            each.update(batch)
    ours, theirs = restored.state_dict(), agent.state_dict()
    assert {"noise_critics.network.0.weight", "optimizer.noise_critics.0.exp_avg"} <= theirs.keys()
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def test_it_acts_alike_with_and_without_what_stands_beside_its_observations():
    agent = make_agent()
    observations = make_observations(torch.Generator().manual_seed(0), 5)
    assert torch.equal(agent.actor.mode(observations), agent.actor.mode(observations[:, :SEEN]))
    assert agent.executed_size == 2 * STEPS and agent.action_size == 4


def test_compiling_is_refused_and_left_out():
    assert make_agent(total_updates=1_000_000)._compiled_update is None
    with pytest.raises(ValueError, match="compile must be false with noise_aliasing"):
        replace(CONFIG, compile=True).validate()
