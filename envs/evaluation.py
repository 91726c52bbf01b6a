"""Evaluation during a training: raw observations, the task's own reward, the same seeds each time."""

from collections.abc import Callable
from typing import Any

import numpy as np

from envs import summary
from envs.interfaces import Policy, Task
from envs.rollout import rollout

MOST_AT_A_TIME = 100  # episodes
FRAME_SIZE = 256  # pixels


class Evaluation:
    """Plays episodes as `evaluate.py` does.

    Args:
        task: what is played.
        policy_of: makes what is being trained a policy.
        episodes: to play.
        first_seed: of them; the others follow.
        image_size: side of the pictures in the observations, 0 for none.
    """

    def __init__(
        self,
        task: Task,
        policy_of: Callable[[Any], Policy],
        episodes: int,
        first_seed: int,
        image_size: int = 0,
    ) -> None:
        self.task = task
        self.policy_of = policy_of
        self.seeds = range(first_seed, first_seed + episodes)
        self.image_size = image_size
        self.fps = task.fps
        self.env = task.vector_env(min(episodes, MOST_AT_A_TIME), image_size)

    def summary(self, trained: Any) -> dict[str, Any]:
        """The numbers of `Task.summarize`."""
        episodes = rollout(self.env, self.policy_of(trained), self.seeds, keep_pixels=False)
        return self.task.summarize(list(episodes))

    def frames(self, trained: Any) -> np.ndarray:
        """One episode of T steps in pictures, (T + 1, 256, 256, 3) uint8."""
        env = self.task.vector_env(1, self.image_size)
        (episode,) = rollout(env, self.policy_of(trained), self.seeds[:1], FRAME_SIZE, keep_pixels=False)
        assert episode.frames is not None
        return episode.frames

    def scalars(self, numbers: dict[str, Any]) -> dict[str, float]:
        return summary.scalars(self.task, numbers)

    def line(self, numbers: dict[str, Any]) -> str:
        return summary.line(self.task, numbers)

    def rank(self, numbers: dict[str, Any]) -> tuple[float, ...]:
        return self.task.rank(numbers)
