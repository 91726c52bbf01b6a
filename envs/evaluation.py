"""Evaluation during a training: raw observations, stock reward, the same seeds each time."""

from collections.abc import Callable
from typing import Any

import numpy as np

from envs.pusht.vector import PushTVectorEnv
from envs.rollout import Policy, rollout
from envs.summary import summarize


class Evaluation:
    """Plays episodes as everyone else will.

    Args:
        policy_of: makes what is being trained a policy.
        episodes: to play.
        first_seed: of them; the others follow.
        pixels: side of the pictures in the observations, 0 for none.
    """

    def __init__(
        self, policy_of: Callable[[Any], Policy], episodes: int, first_seed: int, pixels: int = 0
    ) -> None:
        self.policy_of = policy_of
        self.seeds = range(first_seed, first_seed + episodes)
        self.pixels = pixels
        self.env = PushTVectorEnv(min(episodes, 100), pixels=pixels)

    def summary(self, trained: Any) -> dict[str, Any]:
        """The numbers of `envs.summary.summarize`."""
        return summarize(list(rollout(self.env, self.policy_of(trained), self.seeds)))

    def frames(self, trained: Any) -> np.ndarray:
        """One episode in pictures, (T, 256, 256, 3) uint8."""
        env = PushTVectorEnv(1, pixels=self.pixels)
        (episode,) = rollout(env, self.policy_of(trained), self.seeds[:1], frame_size=256)
        return episode.frames
