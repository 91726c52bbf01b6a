"""The one loop that plays episodes: for evaluation, during training and after it, and for datasets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from envs.pusht.observations import RawObservation
from envs.pusht.vector import PushTVectorEnv


class Policy(Protocol):
    """Anything that plays: an expert, a clone, a script, a person at the mouse."""

    n_action_steps: int  # environment steps played from one decision
    pixels: int  # side of the pictures that it looks at, 0 for none

    def reset(self, episodes: np.ndarray) -> None:
        """Forget what is remembered of the slots `episodes` (k,) int, where new episodes begin."""

    def act(self, observations: RawObservation) -> np.ndarray:
        """Raw observations of n slots -> targets (n, 2) in pixels, within [0, 512]."""


@dataclass
class Episode:
    """One finished episode of T environment steps."""

    seed: int
    observations: RawObservation  # (T + 1, ...) each; action t answers row t, the last ends the episode
    actions: np.ndarray  # (T, 2) pixels
    rewards: np.ndarray  # (T,) stock reward
    coverage: np.ndarray  # (T + 1,) from the start state on
    success: bool  # coverage > 0.95 at some step
    frames: np.ndarray | None = None  # (T + 1, size, size, 3) uint8 RGB, when asked for

    def __len__(self) -> int:
        return len(self.actions)


class _Recording:
    """An episode in the making: its rows so far."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.observations: dict[str, list] = {}
        self.steps: dict[str, list] = {"actions": [], "rewards": [], "coverage": [], "frames": []}

    def observe(self, observations: RawObservation, slot: int, **step) -> None:
        """Add what slot `slot` shows now, and the values of the step that led here."""
        for name, values in observations.items():
            self.observations.setdefault(name, []).append(values[slot])
        for name, value in step.items():
            self.steps[name].append(value)

    def finish(self, success: bool) -> Episode:
        arrays = {name: np.stack(rows) for name, rows in self.steps.items() if rows}
        observations = {name: np.stack(rows) for name, rows in self.observations.items()}
        return Episode(seed=self.seed, observations=observations, success=success, **arrays)


def rollout(
    env: PushTVectorEnv, policy: Policy, seeds: Sequence[int], frame_size: int = 0
) -> Iterator[Episode]:
    """Play one episode per seed and yield each as it ends.

    An environment that finishes takes the next seed, so short episodes do not wait for long ones; every seed
    is played to its end, so quick successes are not favoured. Each episode is the same whatever plays beside
    it, as long as the policy treats its slots alike.

    Args:
        env: as many slots as episodes are to be played at a time.
        policy: plays all slots at once.
        seeds: an episode's start depends on its seed alone.
        frame_size: side in pixels of the recorded frames, 0 for none.
    """
    waiting = list(reversed(seeds))
    slots = [_Recording(seed=-1) for _ in range(env.num_envs)]
    env.active[:] = False
    while waiting or env.active.any():
        starting = np.flatnonzero(~env.active)[: len(waiting)]
        if len(starting):
            for i in starting:
                slots[i] = _Recording(seed=waiting.pop())
            mask = np.isin(np.arange(env.num_envs), starting)
            observations, infos = env.reset(seed=[slot.seed for slot in slots], options={"reset_mask": mask})
            policy.reset(starting)
            _observe(env, slots, starting, frame_size, observations, coverage=infos["coverage"])

        actions = np.array(policy.act(observations))  # a policy may reuse its own array
        playing = np.flatnonzero(env.active)
        observations, rewards, _, _, infos = env.step(actions)
        step = {"actions": actions, "rewards": rewards, "coverage": infos["coverage"]}
        _observe(env, slots, playing, frame_size, observations, **step)
        for i in playing[~env.active[playing]]:
            yield slots[i].finish(success=bool(infos["is_success"][i]))


def _observe(env, slots, indices, frame_size, observations, **step) -> None:
    frames = env.frames(frame_size, indices) if frame_size else [None] * len(indices)
    for i, frame in zip(indices, frames, strict=True):
        values = {name: value[i] for name, value in step.items()}
        slots[i].observe(observations, i, **values, **({} if frame is None else {"frames": frame}))
