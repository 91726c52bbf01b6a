"""What a training spends outside its updates, with the shipped fast expert acting.

Its episodes are as short as those late in a training, so resets count as much as they do there.
"""

import time
from collections import Counter
from statistics import median

import numpy as np
import torch

from common.paths import REPOSITORY
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv
from envs.training import TaskTrainingEnv
from policies import load_policy
from sac.agent import SAC
from sac.config import AgentConfig
from sac.policy import SACPolicy
from sac.replay_buffer import NStepWindow, ReplayBuffer

EXPERT = REPOSITORY / "assets" / "sac_expert_fast"
PARTS = ("act", "physics", "step", "window", "buffer", "reset")  # step: all of a step that is not physics
WARM_UP = 400  # vector steps: the functions are compiled, and episodes end at different times


class Stopwatch:
    """Each `lap` adds the CPU time since the one before to a part."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.last = time.process_time()

    def lap(self, part: str) -> None:
        now = time.process_time()
        self.seconds[part] += now - self.last
        self.last = now


class Player:
    """Does what `_act`, `_advance` and `_store` of `sac.trainer.Trainer` do, timed part by part."""

    def __init__(self, num_envs: int) -> None:
        policy, config = load_policy(EXPERT), AgentConfig()
        assert isinstance(policy, SACPolicy) and isinstance(policy.task, PushT)
        self.num_envs, self.watch = num_envs, Stopwatch()
        self.env: TaskTrainingEnv = PushT(num_envs=num_envs).training_env(1, config.gamma)
        sizes = self.env.observation_size, self.env.action_size
        self.agent = SAC(*sizes, config, total_updates=1, seed=1)
        self.agent.actor.load_state_dict(policy.actor.state_dict())
        self.buffer = ReplayBuffer(1_000_000, *sizes)
        self.window = NStepWindow(num_envs, *sizes, config.n_step, config.gamma)
        self.observations = self.env.reset()
        self._time_physics()

    def _time_physics(self) -> None:
        vector = self.env.env
        assert isinstance(vector, PushTVectorEnv)
        simulate = vector._simulate

        def timed(targets: np.ndarray, active: np.ndarray) -> None:
            self.watch.lap("step")
            simulate(targets, active)
            self.watch.lap("physics")

        vector._simulate = timed

    def play(self) -> int:
        """One step of all environments; returns how many began a new episode."""
        lap = self.watch.lap
        lap("between")
        actions = self.agent.act(torch.from_numpy(self.observations), self.num_envs // 4).numpy()
        lap("act")
        step = self.env.step(actions)
        lap("step")
        ends = step.terminated, step.truncated
        completed = self.window.add(
            self.observations, actions, step.rewards, step.observations, *ends, step.durations
        )
        lap("window")
        self.buffer.add(completed)
        lap("buffer")
        ended = ends[0] | ends[1]
        self.observations = self.env.reset(ended) if ended.any() else step.observations
        lap("reset")
        return int(ended.sum())

    def slice(self, seconds: float) -> dict[str, float]:
        """Play for so many CPU seconds; microseconds by part and step of one environment, and `a reset`."""
        self.watch.seconds.clear()
        steps = resets = 0
        while self.watch.seconds.total() < seconds or not resets:
            resets += self.play()
            steps += self.num_envs
        spent = self.watch.seconds
        return {part: 1e6 * spent[part] / steps for part in PARTS} | {
            "a reset": 1e6 * spent["reset"] / resets
        }


def training_side(num_envs: int, slices: int, slice_s: float) -> dict[str, float]:
    """Steps per second of CPU, microseconds of a reset and of each part per step: medians over the slices."""
    player = Player(num_envs)
    for _ in range(WARM_UP):
        player.play()
    played = [player.slice(slice_s) for _ in range(slices)]
    result = {name: median(each[name] for each in played) for name in played[0]}
    return {"steps/s": median(1e6 / sum(each[part] for part in PARTS) for each in played), **result}


def print_training(results: dict[int, dict[str, float]]) -> None:
    """A line per number of environments; the parts in per cent."""
    print(f"{'training, act to reset':24}{'steps/s':>10}{'us/reset':>10}", *(f"{part:>8}" for part in PARTS))
    for num_envs, result in results.items():
        total = sum(result[part] for part in PARTS)
        shares = (f"{100 * result[part] / total:6.0f} %" for part in PARTS)
        print(f"{num_envs:>3} environments{'':8}{result['steps/s']:11,.0f}{result['a reset']:10.0f}", *shares)
