"""Episodes of random pictures, and what a replay has to hold of them, kept in lists as whole stacks."""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from envs.interfaces import PixelObservations, Step

GAMMA = 0.9


class Transition(NamedTuple):
    observation: np.ndarray  # (H, W, S * C) uint8
    numbers: np.ndarray
    action: np.ndarray
    reward: float
    next_observation: np.ndarray
    next_numbers: np.ndarray
    discount: float


@dataclass
class Place:
    """One picture of an episode, and the decision made from it."""

    stack: np.ndarray
    numbers: np.ndarray  # the first of them tells it from all others
    age: int
    action: np.ndarray | None = None
    reward: float = 0.0
    duration: int = 0
    terminated: bool = False
    ends: bool = False  # the decision ends the episode


class Play:
    """Environments whose episodes end at random, some in their first step."""

    def __init__(self, num_envs: int, picture: tuple[int, int, int], stack: int, seed: int = 0) -> None:
        self.rng, self.picture, self.stack, self.count = np.random.default_rng(seed), picture, stack, 0
        self.places: list[list[Place]] = [[] for _ in range(num_envs)]
        self.remembered = [deque(maxlen=stack) for _ in range(num_envs)]
        self.steps: list[tuple] = []  # what was added, in turn
        for env in range(num_envs):
            self._see(env, 0)

    def _see(self, env: int, age: int) -> None:
        """A new picture of this environment."""
        new = self.rng.integers(0, 256, self.picture, np.uint8)
        pictures = self.remembered[env]
        pictures.extend([new] * self.stack if age == 0 else [new])
        numbers = np.array([self.count, self.count % 7, 0.5], np.float32)
        self.places[env].append(Place(np.concatenate(pictures, axis=-1), numbers, age))
        self.count += 1

    def observe(self) -> PixelObservations:
        newest = [places[-1] for places in self.places]
        return PixelObservations(
            np.stack([place.stack for place in newest]), np.stack([place.numbers for place in newest])
        )

    def __call__(self, decisions: int, *replays) -> None:
        """Play on, and add every decision to the replays."""
        rng, num_envs = self.rng, len(self.places)
        for _ in range(decisions):
            before = self.observe()
            actions = rng.normal(size=(num_envs, 2)).astype(np.float32)
            rewards, durations = rng.normal(size=num_envs), rng.integers(1, 5, num_envs)
            often = 0.05 + 0.2 * np.arange(num_envs) / num_envs  # lengths differ
            terminated, truncated = rng.random((2, num_envs)) < often
            for env, places in enumerate(self.places):
                now = places[-1]
                now.action, now.reward, now.duration = actions[env], rewards[env], durations[env]
                now.terminated, now.ends = terminated[env], terminated[env] or truncated[env]
                self._see(env, now.age + 1)
            after = self.observe()
            for env in np.flatnonzero(terminated | truncated):
                self._see(env, 0)
            step = Step(after, rewards, terminated, truncated, durations, None, rewards)
            added = before, actions, step, self.observe()
            self.steps.append(added)
            for replay in replays:
                replay.add(*added)

    def transitions(self, ring: int, n_step: int) -> dict[int, Transition]:
        """All that a replay of so many pictures per environment may draw, by their first number."""
        found = {}
        for places in self.places:
            gone = max(len(places) - ring, 0)
            for i in range(gone, len(places)):
                if (whole := self._transition(places, i, n_step)) and i - min(
                    places[i].age, self.stack - 1
                ) >= gone:
                    found[int(places[i].numbers[0])] = whole
        return found

    def _transition(self, places: list[Place], first: int, n_step: int) -> Transition | None:
        value, discount = 0.0, 1.0
        for i in range(first, first + n_step):
            place = places[i]
            if place.action is None:  # the end of an episode, or now
                return None
            value += discount * place.reward
            discount *= GAMMA**place.duration
            if place.ends or i == first + n_step - 1:
                start, end = places[first], places[i + 1]
                worth = 0.0 if place.terminated else discount
                assert start.action is not None
                return Transition(
                    start.stack, start.numbers, start.action, value, end.stack, end.numbers, worth
                )
        return None
