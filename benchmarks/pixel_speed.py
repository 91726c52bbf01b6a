"""How fast SAC from pixels is updated here, beside a plain SAC+AE in PyTorch.

    python benchmarks/pixel_speed.py                      a table and JSON
    python benchmarks/pixel_speed.py --reconstruction 1   with the decoder

An update draws a batch from the replay and trains encoder, critics, actor, temperature and averages. Both
have the networks, the batch and the pictures of `configs/sac_visual_pendulum.yaml`. The plain one is written
as SAC+AE's authors wrote theirs: stacks are stored whole, the actor and the target critics encode for
themselves, and `torch.optim.Adam` steps. They take turns within one process; a time is the median over them.
"""

import copy
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from common.device import flush_denormals
from common.errors import report_user_errors
from common.paths import REPOSITORY
from common.provenance import provenance, write_report
from envs.interfaces import PixelObservations, Step
from sac.actor import Actor
from sac.agent import SAC
from sac.config import AgentConfig
from sac.critic import Critics
from sac.encoder import Decoder, Encoder, Projection
from sac.frame_replay import FrameReplay
from sac.replay_buffer import Pixels
from train_sac import read_config

CONFIG = REPOSITORY / "configs" / "sac_visual_pendulum.yaml"
STORED = 5_000  # pictures to draw from
EPISODE = 100  # pictures


def main(
    json: Path = Path("logs/benchmarks/pixel_speed.json"),
    turns: int = 9,
    updates: int = 10,
    threads: int = 1,
    size: int = 48,
    reconstruction: float = 0.0,
) -> None:
    """Measure, print, write.

    Args:
        json: where to write the results.
        turns: of each contestant.
        updates: per turn.
        threads: of PyTorch.
        size: side of the pictures.
        reconstruction: weight of the decoder's loss; 0: no decoder.
    """
    torch.set_num_threads(threads)
    flush_denormals()
    config = read_config(["--config", str(CONFIG)]).agent
    config = replace(config, encoder=replace(config.encoder, reconstruction=reconstruction))
    contestants: dict[str, Callable[[], object]] = {"ours": ours(size, config), "plain": Plain(size, config)}
    for update in contestants.values():
        for _ in range(3):
            update()
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(turns):
        for name, update in contestants.items():
            started = time.process_time()
            for _ in range(updates):
                update()
            cpu[name].append((time.process_time() - started) / updates)
    medians = {name: statistics.median(seconds) for name, seconds in cpu.items()}
    print(f"{'ms of CPU per update':<24}{'updates/s':>12}")
    for name, seconds in medians.items():
        print(f"{name:<8}{1e3 * seconds:16.1f}{1 / seconds:12.1f}")
    ratio = statistics.median(p / o for p, o in zip(cpu["plain"], cpu["ours"], strict=True))
    print(f"ours is {ratio:.2f} times as fast")
    settings = {"threads": threads, "size": size, "reconstruction": reconstruction}
    write_report(json, provenance("torch") | settings | {"cpu_s": medians, "ratio": ratio, "turns": cpu})


def ours(size: int, config: AgentConfig) -> Callable[[], object]:
    agent = SAC(0, 1, config, 1_000_000, seed=0, pixel_shape=(size, size, 3))
    replay = FrameReplay(
        STORED, 1, (size, size, 1), 3, 0, 1, config.n_step, config.gamma, shift=config.encoder.shift
    )
    rng = np.random.default_rng(0)
    none, now = np.zeros((1, 0), np.float32), _stack(rng, size)
    for age in range(STORED):
        after, ended = _stack(rng, size), np.full(1, age % EPISODE == EPISODE - 1)
        step = Step(
            observations=PixelObservations(after, none),
            rewards=rng.normal(size=1),
            terminated=np.zeros(1, bool),
            truncated=ended,
            durations=np.ones(1, np.int64),
            is_success=None,
            returns=np.zeros(1),
        )
        actions = rng.uniform(-1, 1, (1, 1)).astype(np.float32)
        replay.add(PixelObservations(now, none), actions, step, PixelObservations(after, none))
        now = after
    generator = torch.Generator().manual_seed(0)
    return lambda: agent.update(replay.sample(config.batch_size, generator))


def _stack(rng: np.random.Generator, size: int) -> np.ndarray:
    return rng.integers(0, 256, (1, size, size, 3), np.uint8)


class PlainCritics(nn.Module):
    """Critics that encode for themselves."""

    def __init__(self, encoder: Encoder, heads: Critics) -> None:
        super().__init__()
        self.encoder, self.heads = encoder, heads

    def forward(self, seen: Pixels, actions: torch.Tensor) -> torch.Tensor:
        return self.heads(self.encoder(seen), actions)


class Plain:
    """SAC+AE as its authors wrote it (denisyarats/pytorch_sac_ae), with the shift of DrQ-v2."""

    def __init__(self, size: int, config: AgentConfig) -> None:
        torch.manual_seed(0)
        self.config, rng = config, np.random.default_rng(0)
        shape = (STORED, 3, size, size)
        self.stacks, self.next_stacks = (rng.integers(0, 256, shape, np.uint8) for _ in range(2))
        self.actions = rng.uniform(-1, 1, (STORED, 1)).astype(np.float32)
        self.rewards = rng.normal(size=STORED).astype(np.float32)
        self.rng = rng

        features, hidden = config.encoder.features, config.hidden_sizes
        self.encoder = Encoder((size, size, 3), config.encoder).to(memory_format=torch.contiguous_format)  # pyright: ignore
        width = self.encoder.num_features
        self.actor = Actor(features, 1, hidden, Projection(width, features))
        critics = Critics(features, 1, hidden, 2, config.critic_layer_norm, Projection(width, features))
        self.critics = PlainCritics(self.encoder, critics)
        self.target = copy.deepcopy(self.critics)
        self.log_alpha = torch.zeros(1, requires_grad=True)
        self.decoder = Decoder(self.encoder, config.encoder)
        self.optimizers = {
            "critic": torch.optim.Adam(self.critics.parameters(), lr=config.lr),
            "actor": torch.optim.Adam(self.actor.parameters(), lr=config.lr),
            "alpha": torch.optim.Adam([self.log_alpha], lr=config.alpha_lr),
            "encoder": torch.optim.Adam(self.encoder.parameters(), lr=config.lr),
            "decoder": torch.optim.Adam(self.decoder.parameters(), lr=config.lr),
        }

    def __call__(self) -> None:
        drawn = self.rng.integers(0, STORED, self.config.batch_size)
        seen, following = (self._augmented(stacks[drawn]) for stacks in (self.stacks, self.next_stacks))
        actions, rewards = torch.as_tensor(self.actions[drawn]), torch.as_tensor(self.rewards[drawn])
        alpha = self.log_alpha.exp().detach()
        with torch.no_grad():
            next_actions, log_prob = self._act(following)
            next_q = self.target(following, next_actions).amin(dim=0)
            target = rewards + self.config.gamma * (next_q - alpha * log_prob)
        self._step((self.critics(seen, actions) - target).square().mean(dim=1).sum(), "critic")

        actions, log_prob = self._act(seen)
        with torch.no_grad():
            encoded = self.encoder(seen)
        q = self.critics.heads(encoded, actions).amin(dim=0)
        self._step((alpha * log_prob - q).mean(), "actor")
        self._step((-self.log_alpha.exp() * (log_prob.detach() - 1.0)).mean(), "alpha")
        with torch.no_grad():
            for slow, fast in zip(self.target.parameters(), self.critics.parameters(), strict=True):
                slow.copy_(self.config.tau * fast + (1 - self.config.tau) * slow)
        if self.config.encoder.reconstruction:
            projected = self.critics.heads.projection(self.encoder(seen))
            noise = torch.rand_like(seen.pixels)
            self._step(self.decoder.loss(projected, seen, noise), "encoder", "decoder")

    def _augmented(self, stacks: np.ndarray) -> Pixels:
        pixels = torch.as_tensor(stacks).float() / 255
        count, _, size, _ = pixels.shape
        pad = self.config.encoder.shift
        pixels = F.pad(pixels, (pad, pad, pad, pad), "replicate")
        side = size + 2 * pad
        line = torch.linspace(-1 + 1 / side, 1 - 1 / side, side)[:size].expand(size, size)
        base = torch.stack([line, line.T], dim=-1)
        shift = torch.randint(0, 2 * pad + 1, (count, 1, 1, 2)).float() * 2 / side
        shifted = F.grid_sample(pixels, base + shift, padding_mode="zeros", align_corners=False)
        return Pixels(shifted, torch.zeros(count, 0))

    def _act(self, seen: Pixels) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            encoded = self.encoder(seen)
        return self.actor.sample(encoded, torch.randn(len(encoded), 1))

    def _step(self, loss: torch.Tensor, *names: str) -> None:
        for name in names:
            self.optimizers[name].zero_grad()
        loss.backward()
        for name in names:
            self.optimizers[name].step()


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
