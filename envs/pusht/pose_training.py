"""Trains the network of `envs/pusht/pose.py`: pictures whose states are known, drawn here or recorded.

    python -m envs.pusht.pose_training                                     drawn pictures: the shipped weights
    python -m envs.pusht.pose_training --dataset data/x --output logs/x    those of recorded episodes

A dataset is one of `collect_dataset.py --observations pixels`, without `--video`, whose pictures are lossy.
"""

import common.start  # noqa: F401  before all other imports

# isort: split

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from time import process_time

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm, trange

from common.bounds import Count, Positive, Seed
from common.config import parse
from common.errors import UserError, report_user_errors
from envs.pusht.observations import GOAL_POSE, centre_of_gravity, wrap_angle
from envs.pusht.pose import (
    POINTS,
    SIDE,
    WEIGHTS,
    PoseConfig,
    PoseEstimator,
    PoseNetwork,
    Windows,
    cut_windows,
    place,
    save,
)
from envs.pusht.simulator import PushTEnv

PART = 1_000  # pictures drawn or estimated at a time


@dataclass(frozen=True)
class Config:
    """How the network that estimates poses is trained."""

    dataset: Path | None = None  # of recorded episodes with pictures; None: states drawn at random
    pictures: Count = 40_000  # drawn, without a dataset
    updates: Count = 3_500
    batch_size: Count = 64
    lr: Positive = 2e-3  # at first; it falls to 0 on a cosine
    held_out: Count = 3_000  # pictures drawn besides, on which the error is measured
    seed: Seed = 1
    output: Path = WEIGHTS  # folder of the weights
    network: PoseConfig = field(default_factory=PoseConfig)


class Examples:
    """Windows of pictures, and what is in them.

    Args:
        parts: pictures (k, 96, 96, 3) uint8 and states (k, >= 5) as in `PushTEnv.get_state`, of each part.
    """

    def __init__(self, parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> None:
        cut = [(cut_windows(pictures), states[:, :5]) for pictures, states in parts]
        self.states = np.concatenate([states for _, states in cut])
        self.windows = Windows(*map(np.concatenate, zip(*(windows for windows, _ in cut), strict=True)))
        centers = self.windows.centers
        points = place(self.states[:, 2:4], self.states[:, 4], POINTS) - centers[:, :1]
        self.block, self.agent = torch.from_numpy(self.windows.block), torch.from_numpy(self.windows.agent)
        self.points = torch.from_numpy(points).float()
        self.agent_pos = torch.from_numpy(self.states[:, :2] - centers[:, 1]).float()

    def __len__(self) -> int:
        return len(self.states)


def drawn_examples(count: int, seed: int) -> Examples:
    """Random states of the simulator, half of them with the agent about or at the block."""
    rng = np.random.default_rng(seed)
    env = PushTEnv(obs_type="pixels", observation_width=SIDE, observation_height=SIDE)
    env.reset(seed=0)

    def parts():
        for begin in tqdm(range(0, count, PART), desc="drawing", unit="k", disable=None):
            played = [_draw(env, rng) for _ in range(min(PART, count - begin))]
            pictures, states = zip(*played, strict=True)
            yield np.stack(pictures), np.stack(states)

    return Examples(parts())


def _draw(env: PushTEnv, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """A picture (96, 96, 3) and its state (7,)."""
    block = np.array([*rng.uniform(60, 450, 2), rng.uniform(-np.pi, np.pi)])
    if rng.random() < 0.4:  # where the last pixels count
        block = GOAL_POSE + rng.normal(size=3) * [20.0, 20.0, 0.2] * rng.random()
    agent, near = rng.uniform(15, 497, 2), rng.random() < 0.5
    middle = centre_of_gravity(block[None])[0]
    if near:
        direction = rng.uniform(-np.pi, np.pi)
        agent = middle + rng.uniform(50, 110) * np.array([np.cos(direction), np.sin(direction)])
    env.set_state([*np.clip(agent, 15, 497), *block])
    if near:
        for _ in range(2):  # it touches the block, or pushes it out of itself
            env.step(middle + rng.normal(size=2) * 40)
    picture = env._render()
    assert picture is not None
    return picture, env.get_state()


def recorded_examples(folder: Path) -> Examples:
    """All frames of a dataset.

    Raises:
        UserError: there is none, it is damaged, or it has no lossless pictures of this size.
    """
    from recording.checks import open_recording  # LeRobot takes seconds to import
    from recording.schema import IMAGE
    from recording.stored import columns, stored_episodes

    dataset = open_recording(folder)
    recipe = dataset.notes.recipe
    if recipe.observations != "pixels" or recipe.video or recipe.resolution != SIDE:
        raise UserError(f"{folder}: needs --observations pixels --resolution {SIDE}, without --video")
    values = (columns(dataset, *episode) for episode in stored_episodes(dataset))
    return Examples((episode[IMAGE], episode["sim.state"]) for episode in values)


def train(config: Config, examples: Examples) -> PoseNetwork:
    """Fit the network to the examples."""
    torch.manual_seed(config.seed)
    network = PoseNetwork(config.network)
    optimizer = torch.optim.Adam(network.parameters(), config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, config.updates)
    bar = trange(config.updates, desc="training", disable=None)
    for update in bar:
        rows = torch.randint(len(examples), (config.batch_size,))
        points, agent_pos = network(examples.block[rows], examples.agent[rows])
        loss = functional.smooth_l1_loss(points, examples.points[rows])
        loss = loss + functional.smooth_l1_loss(agent_pos, examples.agent_pos[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if update % 100 == 0:
            bar.set_postfix_str(f"loss {loss.item():.3f}")
    return network


def errors(network: PoseNetwork, examples: Examples) -> dict[str, float]:
    """Median and 99th percentile of the errors of positions in board pixels and of the angle in degrees."""
    estimate = PoseEstimator(network).of_windows(examples.windows)
    turns = wrap_angle(estimate["block_pose"][:, 2] - examples.states[:, 4])
    gaps = {
        "agent_pos px": np.linalg.norm(estimate["agent_pos"] - examples.states[:, :2], axis=1),
        "block_pos px": np.linalg.norm(estimate["block_pose"][:, :2] - examples.states[:, 2:4], axis=1),
        "block_angle deg": np.rad2deg(np.abs(turns)),
    }
    shares = {"median": 50, "p99": 99}
    return {
        f"{name} {word}": round(float(np.percentile(gap, share)), 4)
        for name, gap in gaps.items()
        for word, share in shares.items()
    }


@report_user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, description=__doc__)
    torch.set_num_threads(1)
    started = process_time()
    seen = (
        recorded_examples(config.dataset) if config.dataset else drawn_examples(config.pictures, config.seed)
    )
    network = train(config, seen)
    measured = errors(network, drawn_examples(config.held_out, config.seed + 1))
    seconds = process_time() - started
    print(
        *(f"  {name:<24}{value:.3f}" for name, value in measured.items()), f"  {seconds:.0f} CPU s", sep="\n"
    )
    notes = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(config).items()}
    del notes["network"], notes["output"]
    save(config.output, network.eval(), config.network, notes | measured)
    print(f"wrote {config.output}")


if __name__ == "__main__":
    main()
