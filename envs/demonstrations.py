"""Recorded episodes as an off-policy learner would have lived them: in decisions, with its own reward.

The decision at frame t is made from observation t, and what it led to is observation t + 1. Datasets do not
store the observation after the last action: a last action that terminates has its reward computed with the
observation before it in its place, and a discount of 0; any other last action is left out. An episode ends
where it first terminates, also where the recorder went on.

Where the replay holds chunks that a steered policy executes (`envs/aliasing.py`), each frame begins a
decision: its chunk is what was recorded from there on. Beyond the end the last action is repeated, and not
counted as played.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from envs.aliasing import NoiseAliasing
from envs.history import frames_seen
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


class Demonstrations(Protocol):
    """A dataset of them."""

    root: Path  # its folder
    lengths: np.ndarray  # (episodes,) frames of each

    def fingerprint(self) -> str:
        """Identifies them by content."""
        ...

    def episodes(self) -> Iterator[DemonstratedEpisode]:
        """All, in their order.

        Raises:
            UserError: a value is missing, is no number, or a picture is damaged.
        """
        ...


class Decision(NamedTuple):
    """What `sac.replay.Replay.add` takes, of one environment."""

    observations: Observations  # (1, ...)
    actions: np.ndarray  # (1, A) float32 of the network, in [-1, 1]; or executed, (1, C)
    step: Step
    next_observations: Observations  # (1, ...) where an episode ended, of the next one


@dataclass
class Conversion:
    """Turns recorded episodes into decisions.

    Args:
        codec: of the task, with one slot.
        env: gives reward, discount and action repeat.
        aliasing: of a steered policy, whose chunks the decisions are; None: they are the codec's.

    A decision that lasts several steps has the mean of their actions; what the codec cannot do is clipped.
    Of a chunk nothing is.
    """

    codec: Codec
    env: TaskTrainingEnv
    aliasing: NoiseAliasing | None = None
    decisions: int = 0  # so far
    clipped: int = 0  # of these, whose action the codec cannot reach
    averaged: int = 0  # of these, whose steps had different actions
    too_short: int = 0  # episodes left out, which have no decision whose end is known

    def __call__(self, episodes: Iterable[DemonstratedEpisode]) -> Iterator[Decision]:
        """The decisions of all episodes, one after the other."""
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
            self.too_short += 1
            return
        rewards = self._rewards(episode, length)
        context = self._context(episode)
        for first in range(min(self.steps, length) if self.aliasing else 1):
            yield from self._decisions_from(first, episode, length, rewards, context)

    def _decisions_from(
        self, first: int, episode: DemonstratedEpisode, length: int, rewards: np.ndarray, context: np.ndarray
    ) -> Iterator[Decision]:
        """One after the other, from frame `first` on."""
        raw, begin = _row(episode.observations, 0), first
        self.codec.reset(np.ones(1, bool), raw)
        if first:
            self.codec.advance(episode.actions[:first, None], raw, np.ones(1, bool))
            raw = _row(episode.observations, first)
        seen = self._see(raw, context[first : first + 1])
        while begin < length:
            end = min(begin + self.steps, length)
            if self.aliasing:
                actions = self._executed(episode.actions[begin:end], raw, context[begin : begin + 1])
            else:
                actions = self._encode(episode.actions[begin:end], raw)
            raw = _row(episode.observations, end)
            after = self._see(raw, _at(context, end))
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

    @property
    def steps(self) -> int:
        """Environment steps that a decision lasts."""
        return self.aliasing.steering.n_action_steps if self.aliasing else self.env.decision_steps

    def _context(self, episode: DemonstratedEpisode) -> np.ndarray:
        """The context of each observation (`NoiseAliasing.context`), (T, F + C); without aliasing (T, 0)."""
        frames = np.arange(len(episode.actions))
        if not self.aliasing:
            return np.zeros((len(frames), 0), np.float32)
        frames = frames_seen(frames, self.aliasing.steering.policy.history)
        return self.aliasing.context({name: rows[frames] for name, rows in episode.observations.items()})

    def _see(self, raw: RawObservation, context: np.ndarray) -> Observations:
        seen = self.codec.encode(raw)
        return np.concatenate([seen, context], axis=1) if isinstance(seen, np.ndarray) else seen

    def _executed(self, recorded: np.ndarray, raw: RawObservation, context: np.ndarray) -> np.ndarray:
        """The chunk (1, C) of recorded actions (k, A'), which the codec remembers as decided."""
        assert self.aliasing
        chunk = recorded[np.minimum(np.arange(self.steps), len(recorded) - 1)].astype(np.float64)
        self.codec.advance(chunk[:, None], raw, np.ones(1, bool))
        return self.aliasing.executed(chunk[None], context)

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
    return {name: _at(rows, at) for name, rows in observations.items()}


def _at(rows: np.ndarray, at: int | np.ndarray) -> np.ndarray:
    return rows[np.minimum(np.atleast_1d(at), len(rows) - 1)]
