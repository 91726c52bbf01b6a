"""Recorded episodes as an off-policy learner would have lived them: in decisions, with its own reward.

The decision at frame t is made from observation t, and what it led to is observation t + 1. Datasets do not
store the observation after the last action: a last action that terminates has its reward computed with the
observation before it in its place, and a discount of 0; any other last action is left out. An episode ends
where it first terminates, also where the recorder went on.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from envs.interfaces import Codec, Observations, RawObservation, Step
from envs.training import TaskTrainingEnv

TOLERANCE = 1e-4  # of an action's range, within which two actions are the same


@dataclass(frozen=True)
class DemonstratedEpisode:
    """T frames, in the task's units."""

    observations: RawObservation  # (T, ...) each, before each action
    actions: np.ndarray  # (T, A) as they were played
    rewards: np.ndarray  # (T,) the task's own
    is_success: np.ndarray  # (T,) bool, after each action
    terminated: np.ndarray  # (T,) bool, after each action


class Decision(NamedTuple):
    """What `sac.replay.Replay.add` takes, of one environment."""

    observations: Observations  # (1, ...)
    actions: np.ndarray  # (1, A) float32 of the network, in [-1, 1]
    step: Step
    next_observations: Observations  # (1, ...) where an episode ended, of the next one


@dataclass
class Conversion:
    """Turns recorded episodes into decisions.

    Args:
        codec: of the task, with one slot.
        env: gives reward, discount and action repeat.

    A decision that lasts several steps has the mean of their actions; what the codec cannot do is clipped.
    """

    codec: Codec
    env: TaskTrainingEnv
    decisions: int = 0  # so far
    clipped: int = 0  # of these, whose action the codec cannot reach
    averaged: int = 0  # of these, whose steps had different actions

    def __call__(self, episodes: Iterable[DemonstratedEpisode]) -> Iterator[Decision]:
        """The decisions of all episodes, one after the other; too short ones are left out."""
        waiting: Decision | None = None
        for episode in episodes:
            for decision in self._decisions(episode):
                if waiting:
                    yield waiting._replace(next_observations=decision.observations)
                waiting = decision
        if waiting:
            yield waiting

    def _decisions(self, episode: DemonstratedEpisode) -> Iterator[Decision]:
        """Of one episode; `next_observations` are those of its end even in the last."""
        length = (
            int(episode.terminated.argmax()) + 1 if episode.terminated.any() else len(episode.actions) - 1
        )
        if not length:
            return
        rewards = self._rewards(episode, length)
        raw, begin = _row(episode.observations, 0), 0
        self.codec.reset(np.ones(1, bool), raw)
        seen = self.codec.encode(raw)
        while begin < length:
            end = min(begin + self.env.action_repeat, length)
            actions = self._encode(episode.actions[begin:end], raw)
            raw = _row(episode.observations, end)
            after = self.codec.encode(raw)
            terminated = episode.terminated[end - 1 : end]
            step = Step(
                observations=after,
                rewards=self.env.reward_scale * np.array([self._discounted(rewards[begin:end])]),
                terminated=terminated,
                truncated=~terminated & (end == length),
                durations=np.array([end - begin]),
                is_success=np.array([episode.is_success[begin:end].any()]),
                returns=np.full(1, np.nan),
            )
            self.decisions += 1
            yield Decision(seen, actions, step, after)
            seen, begin = after, end

    def _rewards(self, episode: DemonstratedEpisode, length: int) -> np.ndarray:
        """The learner's rewards of the first steps, (length,)."""
        before = {name: rows[:length] for name, rows in episode.observations.items()}
        after = _row(episode.observations, np.arange(1, length + 1))
        return self.env.reward(before, after, episode.rewards[:length], episode.is_success[:length])

    def _discounted(self, rewards: np.ndarray) -> float:
        return float((self.env.gamma ** np.arange(len(rewards)) * rewards).sum())

    def _encode(self, wanted: np.ndarray, raw: RawObservation) -> np.ndarray:
        """Network actions (1, A) for those of the steps (k, A'), which the codec remembers as decided."""
        mean = wanted.astype(np.float64).mean(axis=0, keepdims=True)
        actions = np.clip(self.codec.encode_actions(mean, raw), -1.0, 1.0).astype(np.float32)
        reached = self.codec.decode(actions, raw, np.ones(1, bool))
        space = self.env.env.single_action_space
        near = TOLERANCE * (space.high - space.low)
        self.averaged += bool((np.abs(wanted - mean) > near).any())
        self.clipped += bool((np.abs(reached - mean) > near).any())
        return actions


def _row(observations: RawObservation, at: int | np.ndarray) -> RawObservation:
    """Rows (k, ...) of (T, ...); the last one stands for those after it."""
    places = np.atleast_1d(at)
    return {name: rows[np.minimum(places, len(rows) - 1)] for name, rows in observations.items()}
