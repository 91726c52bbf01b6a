"""The one loop that plays episodes, and the one that plays recorded actions again."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from envs.interfaces import Episode, Infos, Policy, RawObservation, VectorEnv


class _Recording:
    """A running episode: its rows so far."""

    def __init__(self, seed: int, keep_pixels: bool = True) -> None:
        self.seed = seed
        self.keep_pixels = keep_pixels
        self.observations: dict[str, list[np.ndarray]] = {}
        self.steps: dict[str, list[np.ndarray]] = {}

    def add(self, slot: int, observations: RawObservation, **step: np.ndarray) -> None:
        """Add row `slot` of the observations and of the values of the step that led to them."""
        for rows, values in ((self.observations, observations), (self.steps, step)):
            for name, value in values.items():
                if name != "pixels" or self.keep_pixels:
                    rows.setdefault(name, []).append(value[slot])

    def __len__(self) -> int:
        return len(self.steps.get("actions", ()))

    def finish(self, infos: Infos, slot: int) -> Episode:
        arrays = {name: np.stack(rows) for name, rows in self.steps.items()}
        success = bool(infos["is_success"][slot]) if "is_success" in infos else None
        observations = {name: np.stack(rows) for name, rows in self.observations.items()}
        return Episode(self.seed, observations, success=success, **arrays)


def rollout(
    env: VectorEnv,
    policy: Policy,
    seeds: Sequence[int],
    frame_size: int = 0,
    keep_pixels: bool = True,
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
        keep_pixels: episodes have the pictures that the policy saw. Without, only those that it decides on
            are asked for, and a thousand steps do not take megabytes.
    """
    waiting = list(reversed(seeds))
    slots = [_Recording(seed=-1) for _ in range(env.num_envs)]
    env.active[:] = False
    observations: RawObservation = {}
    while waiting or env.active.any():
        starting = np.flatnonzero(~env.active)[: len(waiting)]
        if len(starting):
            for i in starting:
                slots[i] = _Recording(waiting.pop(), keep_pixels)
            mask = np.isin(np.arange(env.num_envs), starting)
            observations, infos = env.reset(seed=[slot.seed for slot in slots], options={"reset_mask": mask})
            policy.reset(starting)
            extras = _extras(env, infos, starting, frame_size)
            for i in starting:
                slots[i].add(i, observations, **extras)

        actions = np.array(policy.act(observations))  # a policy may reuse its own array
        playing = np.flatnonzero(env.active)
        steps = np.array([len(slot) for slot in slots]) + 1  # after this one
        env.watched[:] = True if keep_pixels else -steps % policy.n_action_steps < policy.history
        observations, rewards, _, _, infos = env.step(actions)
        step = {"actions": actions, "rewards": rewards} | _extras(env, infos, playing, frame_size)
        for i in playing:
            slots[i].add(i, observations, **step)
        for i in playing[~env.active[playing]]:
            yield slots[i].finish(infos, i)


def replay(
    env: VectorEnv, actions: np.ndarray, seed: int = 0, options: dict[str, Any] | None = None
) -> Iterator[tuple[RawObservation, float, Infos]]:
    """Play recorded actions in a vector environment of one slot, all of them, past a success too.

    Args:
        env: `num_envs` 1.
        actions: (T, A) in the task's units.
        seed, options: of the start, as `VectorEnv.reset` takes them.

    Yields:
        observations, reward and infos, T + 1 times; the reward of the start is 0.
    """
    env.watched[:] = True
    observations, infos = env.reset(seed=[seed], options=options)
    yield observations, 0.0, infos
    for action in actions:
        env.active[:] = True
        observations, rewards, _, _, infos = env.step(action[None])
        yield observations, float(rewards[0]), infos


def replay_episode(env: VectorEnv, episode: Episode, frame_size: int) -> Episode:
    """The same episode with frames (T + 1, frame_size, frame_size, 3), played again from its seed."""
    slot = np.arange(1)
    frames = [env.frames(frame_size, slot)[0] for _ in replay(env, episode.actions, episode.seed)]
    return replace(episode, frames=np.stack(frames))


def _extras(env: VectorEnv, infos: Infos, slots: np.ndarray, frame_size: int) -> dict[str, np.ndarray]:
    """What an episode keeps of its infos, and the frames of these slots, in rows of all slots."""
    extras = {"progress": infos["progress"]} if "progress" in infos else {}
    if frame_size:
        drawn = env.frames(frame_size, slots)
        frames = np.zeros((env.num_envs, *drawn.shape[1:]), np.uint8)
        frames[slots] = drawn
        extras["frames"] = frames
    return extras
