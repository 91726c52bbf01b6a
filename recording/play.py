"""Episodes played for the dataset: `envs.rollout` with noise, a held end, and pictures of what is kept.

An episode depends on the recipe and on its seed, not on what is recorded beside it, before it, or where.
"""

from collections.abc import Sequence

import numpy as np

from common.seeding import split_seed
from envs.interfaces import Policy, RawObservation
from envs.pusht.observations import SUCCESS_COVERAGE
from envs.pusht.simulator import PushTEnv
from envs.pusht.vector import MAX_EPISODE_STEPS, PushTVectorEnv
from envs.rollout import Episode, rollout
from recording.pictures import encode_mp4, encode_png, histogram, picture_stats
from recording.schema import IMAGE, Recipe, Recorded, column_stats, columns


class RecordingEnv(PushTVectorEnv):
    """PushTs that keep what `rollout` does not: full states, pictures, and the actions as they were played.

    Args:
        num_envs: how many.
        recipe: noise, hold, and what pictures to take.
        image_size: side of the pictures that the policy sees, 0 for none.
    """

    def __init__(self, num_envs: int, recipe: Recipe, image_size: int = 0) -> None:
        super().__init__(num_envs, image_size, MAX_EPISODE_STEPS + recipe.hold, recipe.hold)
        self.recipe = recipe
        self.side = recipe.resolution if recipe.observations == "pixels" else 0
        self.stop = np.zeros(num_envs, bool)  # episodes that end with the next step, whatever it leads to

    def reset(self, *, seed: list[int], options: dict | None = None) -> tuple[dict, dict]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if mask.all():
            self.takes: list[_Take] = [None] * self.num_envs
        for i in np.flatnonzero(mask):
            self.takes[i] = _Take(Noise(self.recipe, int(seed[i])))
        self.stop[mask] = False
        return super().reset(seed=seed, options=options)

    def step(self, actions: np.ndarray) -> tuple[dict, np.ndarray, np.ndarray, np.ndarray, dict]:
        played = actions.copy()
        for i in np.flatnonzero(self.active):
            played[i] = self.takes[i].noise.disturb(actions[i], self.on_place[i] > 0)
            self.takes[i].states.append(self.envs[i].get_state())
            if self.side:
                self.takes[i].keep(self._picture(self.envs[i]))
            self.takes[i].played.append(played[i])
        observations, rewards, terminated, truncated, infos = super().step(played)
        terminated |= self.active & self.stop
        self.active &= ~terminated
        return observations, rewards, terminated, truncated, infos

    def _picture(self, env: PushTEnv) -> np.ndarray:
        env.observation_width = env.observation_height = self.side
        frame = env._render()
        env.observation_width = env.observation_height = self.image_size  # as the policy sees it
        return frame


class Noise:
    """What disturbs the actions of one episode, as long as the T is not in place."""

    def __init__(self, recipe: Recipe, seed: int) -> None:
        self.size = recipe.noise
        self.rng = np.random.default_rng(split_seed((recipe.seed, seed), "actions", "noise")["noise"])

    def disturb(self, action: np.ndarray, on_place: bool) -> np.ndarray:
        """The action (2,) as it is played."""
        if not self.size or on_place:
            return action
        return np.clip(action + self.rng.normal(0.0, self.size, 2), 0.0, 512.0).astype(np.float32)


class _Take:
    """What is kept of one episode."""

    def __init__(self, noise: Noise) -> None:
        self.noise = noise
        self.states: list[np.ndarray] = []
        self.played: list[np.ndarray] = []
        self.pictures: list[bytes] = []  # compressed at once: as bytes, an episode of 512 x 512 takes 200 MB
        self.histograms: list[np.ndarray] = []

    def keep(self, frame: np.ndarray) -> None:
        self.pictures.append(encode_png(frame))
        self.histograms.append(histogram(frame))


class Teacher:
    """A policy as it is recorded: targets in the float32 that is stored, and rest once the T is in place.

    At that moment the policy has never had to do anything again. Its target then becomes the place where the
    agent stands; should the T slip off nevertheless, the policy goes on.
    """

    def __init__(self, policy: Policy, env: RecordingEnv, rests: bool = True) -> None:
        self.policy, self.env, self.rests = policy, env, rests
        self.n_action_steps, self.image_size = policy.n_action_steps, policy.image_size

    def seed_slots(self, seeds: Sequence[int]) -> None:
        self.policy.seed_slots(seeds)

    def reset(self, slots: np.ndarray) -> None:
        self.policy.reset(slots)
        self.places = np.full((self.env.num_envs, 2), np.nan)

    def act(self, observations: RawObservation) -> np.ndarray:
        targets = np.array(self.policy.act(observations))
        if self.rests:
            arrived = self.env.on_place == 1
            self.places[arrived] = observations["agent_pos"][arrived]
            resting = self.env.on_place > 0
            targets[resting] = self.places[resting]
        return np.clip(targets, 0.0, 512.0).astype(np.float32)


def play(env: RecordingEnv, policy: Policy, seeds: Sequence[int], rests: bool = True) -> list[Recorded]:
    """Play one episode per slot of `env`; those that the recipe accepts, and all others without content.

    Args:
        env: with as many slots as seeds.
        policy: plays all slots.
        seeds: of the episodes.
        rests: see `Teacher`; False for a person, who goes on alone.

    Returns:
        episodes in the order of `seeds`; those not accepted have no content.
    """
    recipe = env.recipe
    policy.seed_slots([split_seed((recipe.seed, seed), "actions", "noise")["actions"] for seed in seeds])
    episodes = {episode.seed: episode for episode in rollout(env, Teacher(policy, env, rests), seeds)}
    return [_develop(recipe, episodes[seed], take) for seed, take in zip(seeds, env.takes, strict=True)]


def _develop(recipe: Recipe, episode: Episode, take: _Take) -> Recorded:
    max_coverage = float(episode.progress[1:].max())
    success = bool(steps_on_place(episode.progress[1:]) > recipe.hold)  # time may run out while it lies there
    recorded = Recorded(episode.seed, success, max_coverage, {}, [], {})
    if recipe.accepts(success, max_coverage):
        states, keypoints = np.stack(take.states), episode.observations["keypoints"][:-1]
        played = np.stack(take.played)
        recorded.columns = columns(recipe, states, keypoints, episode.actions, played, episode.progress[1:])
        add_pictures(recipe, recorded, take.pictures, take.histograms)
    return recorded


def steps_on_place(coverage: np.ndarray) -> int:
    """For how many of the last steps the T lay on its place: coverage (T,) after each step."""
    off = np.flatnonzero(coverage <= SUCCESS_COVERAGE)
    return len(coverage) - 1 - off[-1] if len(off) else len(coverage)


def add_pictures(
    recipe: Recipe, recorded: Recorded, pictures: list[bytes], histograms: Sequence[np.ndarray]
) -> None:
    """Complete an episode that has its columns: pictures, their video if asked for, and all statistics."""
    recorded.pictures = pictures
    recorded.stats = {name: column_stats(values) for name, values in recorded.columns.items()}
    if pictures:
        recorded.stats[IMAGE] = picture_stats(histograms)
        recorded.video = encode_mp4(pictures) if recipe.video else b""
