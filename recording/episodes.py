"""Episodes played for a dataset: `envs.rollout` with noise, a held end, and pictures of what is kept.

An episode depends on the recipe and on its seed alone, not on what is recorded beside or before it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

from common.seeding import split_seed
from envs.interfaces import Episode, Infos, Policy, RawObservation
from envs.recording import Recordable
from envs.rollout import rollout
from recording.pictures import encode_mp4, encode_png, histogram, picture_stats
from recording.schema import IMAGE, Recipe, RecordedEpisode, column_stats, columns, recorded_task


class RecordingEnv:
    """A `VectorEnv` that keeps what `rollout` does not: pictures, successes, and actions as they were played.

    Args:
        num_envs: how many.
        recipe: its task, noise, hold, and pictures.
        image_size: side in pixels of the pictures that the policy sees, 0 for none.
    """

    def __init__(self, num_envs: int, recipe: Recipe, image_size: int = 0) -> None:
        self.recipe, self.task = recipe, recorded_task(recipe.task)
        self.env = self.task.recording.env(num_envs, image_size, recipe.hold)
        self.num_envs, self.active, self.watched = num_envs, self.env.active, self.env.watched
        self.single_observation_space = self.env.single_observation_space
        self.single_action_space = self.env.single_action_space
        self.resolution = recipe.resolution if recipe.observations == "pixels" else 0
        self.stop = np.zeros(num_envs, bool)  # episodes that end with their next step
        self.success_steps = np.zeros(num_envs, np.int64)  # for how many of the latest steps success lasts
        self.buffers: dict[int, EpisodeBuffer] = {}  # by slot

    def reset(
        self, *, seed: Sequence[int] | np.ndarray, options: dict[str, Any] | None = None
    ) -> tuple[RawObservation, Infos]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for i in np.flatnonzero(mask):
            self.buffers[i] = EpisodeBuffer(ActionNoise(self.recipe, int(seed[i]), self.single_action_space))
        self.stop[mask], self.success_steps[mask] = False, 0
        observations, infos = self.env.reset(seed=seed, options=options)
        self.active = self.env.active
        return observations, infos

    def step(self, actions: np.ndarray) -> tuple[RawObservation, np.ndarray, np.ndarray, np.ndarray, Infos]:
        played, playing = actions.copy(), self.active.copy()
        slots = np.flatnonzero(playing)
        for i in slots:
            played[i] = self.buffers[i].noise.disturb(actions[i], bool(self.success_steps[i] > 0))
            self.buffers[i].actions.append(played[i])
            if self.resolution:
                self.buffers[i].add_picture(self.env.pictures(self.resolution, np.array([i]))[0])
        observations, rewards, terminated, truncated, infos = self.env.step(played)
        for i in slots:
            self.buffers[i].is_success.append(bool(infos["is_success"][i]))
        lasting = np.where(infos["is_success"], self.success_steps + 1, 0)
        self.success_steps = np.where(playing, lasting, self.success_steps)
        terminated |= self.env.active & self.stop
        self.env.active &= ~terminated
        self.active = self.env.active
        return observations, rewards, terminated, truncated, infos

    def frames(self, size: int, slots: np.ndarray) -> np.ndarray:
        return self.env.frames(size, slots)


class ActionNoise:
    """Gaussian noise on the actions of one episode, except while there is success."""

    def __init__(self, recipe: Recipe, seed: int, action_space: spaces.Box) -> None:
        self.noisy, self.std = recipe.noisy, recipe.noise
        self.bounds = action_space.low, action_space.high
        self.rng = np.random.default_rng(split_seed((recipe.seed, seed), "actions", "noise")["noise"])

    def disturb(self, action: np.ndarray, is_success: bool) -> np.ndarray:
        """The action (A,) as it is played."""
        if not self.noisy or is_success:
            return action
        return np.clip(action + self.rng.normal(0.0, self.std, action.shape), *self.bounds).astype(np.float32)


class EpisodeBuffer:
    """What is kept of a running episode."""

    def __init__(self, noise: ActionNoise) -> None:
        self.noise = noise
        self.actions: list[np.ndarray] = []  # as they were played
        self.is_success: list[bool] = []  # after each
        self.pictures: list[bytes] = []  # PNG at once: as arrays, an episode of 512 x 512 takes 200 MB
        self.histograms: list[np.ndarray] = []

    def add_picture(self, picture: np.ndarray) -> None:
        self.pictures.append(encode_png(picture))
        self.histograms.append(histogram(picture))


class RecordedPolicy:
    """A `Policy` as it is recorded: actions in the float32 that is stored, and rest after success.

    Experts were not trained on what comes after success, because their episodes ended there. While success
    lasts, the action is the one that leaves everything as it is (`Recording.resting_actions`); when it is
    lost, the policy acts again.

    Args:
        policy: plays all slots of `env`.
        env: knows how long success has lasted.
        rests: False for a person, who plays on.
    """

    def __init__(self, policy: Policy, env: RecordingEnv, rests: bool = True) -> None:
        self.policy, self.env, self.rests = policy, env, rests
        self.n_action_steps, self.image_size = policy.n_action_steps, policy.image_size
        self.history = policy.history
        self.bounds = env.single_action_space.low, env.single_action_space.high
        self.resting = np.zeros((env.num_envs, *env.single_action_space.shape))

    def seed_slots(self, seeds: Sequence[int]) -> None:
        self.policy.seed_slots(seeds)

    def reset(self, slots: np.ndarray) -> None:
        self.policy.reset(slots)

    def act(self, observations: RawObservation) -> np.ndarray:
        actions = np.array(self.policy.act(observations))
        if self.rests:
            arrived = self.env.active & (self.env.success_steps == 1)
            if arrived.any():
                self.resting[arrived] = self.env.task.recording.resting_actions(observations)[arrived]
            successful = self.env.success_steps > 0
            actions[successful] = self.resting[successful]
        return np.clip(actions, *self.bounds).astype(np.float32)


def record_episodes(
    env: RecordingEnv, policy: Policy, seeds: Sequence[int], rests: bool = True
) -> list[RecordedEpisode]:
    """Play one episode per slot of `env`.

    Args:
        env: with as many slots as seeds.
        policy: plays all slots.
        seeds: of the episodes.
        rests: see `RecordedPolicy`.

    Returns:
        episodes in the order of `seeds`; those that the recipe does not accept have no content.
    """
    recorded = RecordedPolicy(policy, env, rests)
    recorded.seed_slots(
        [split_seed((env.recipe.seed, seed), "actions", "noise")["actions"] for seed in seeds]
    )
    episodes = {episode.seed: episode for episode in rollout(env, recorded, seeds, keep_pixels=False)}
    return [_finish(env, episodes[seed], env.buffers[slot]) for slot, seed in enumerate(seeds)]


def _finish(env: RecordingEnv, episode: Episode, buffer: EpisodeBuffer) -> RecordedEpisode:
    task, recipe, is_success = env.task, env.recipe, np.array(buffer.is_success)
    success = bool(final_successes(is_success) > recipe.hold)  # time may run out while it lasts
    recorded = RecordedEpisode(episode.seed, success, float(episode.progress[1:].max()))
    if recipe.accepts(success, recorded.max_progress):
        observations = {name: rows[:-1] for name, rows in episode.observations.items()}
        played = np.stack(buffer.actions)
        values = columns(task, recipe, observations, episode.actions, played, episode.rewards, is_success)
        complete(recipe, task, recorded, values, buffer.pictures, buffer.histograms)
    return recorded


def final_successes(is_success: np.ndarray) -> int:
    """For how many of the last steps there was success: is_success (T,) bool, after each step."""
    failures = np.flatnonzero(~is_success)
    return len(is_success) - 1 - failures[-1] if len(failures) else len(is_success)


def complete(
    recipe: Recipe,
    task: Recordable,
    episode: RecordedEpisode,
    values: dict[str, np.ndarray],
    pictures: list[bytes],
    histograms: Sequence[np.ndarray],
) -> None:
    """Give an episode its content: columns, pictures, their video if asked for, and all statistics."""
    episode.columns, episode.pictures = values, pictures
    episode.stats = {name: column_stats(column) for name, column in values.items()}
    if pictures:
        episode.stats[IMAGE] = picture_stats(histograms)
        episode.video = encode_mp4(pictures, task.fps) if recipe.video else b""
