"""Replay a dataset's actions in the unmodified environment and compare everything that is stored.

Episodes recorded here start from their seeds, not from a stored state, and their replay must be equal.
Demonstrations from elsewhere have no seed: they start from their first stored state, and their replay must be
equal within the task's `import_tolerance`. Videos are compared only where something is drawn, because the
background is most of every picture.

Statistics, by which policies scale observations and actions, are recomputed from the stored values; those of
a video from the pictures of the replay, unless it was made of imported pictures.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium import spaces
from tqdm import tqdm

from common.errors import UserError
from common.lerobot_files import STATS, reading
from common.signals import StopRequest
from envs.recording import Recordable
from envs.rollout import replay
from recording.dataset import Dataset, all_stats
from recording.episodes import ActionNoise, final_successes
from recording.pictures import histogram, picture_stats
from recording.schema import IMAGE, Recipe, column_stats, max_progress_name
from recording.stored import columns, stored_episodes

TIMESTAMP_TOLERANCE_S = 1e-6  # per frame: float32 beside float64
STATS_TOLERANCE = 1e-5  # of statistics, as a share of the largest value
SENTENCES = {  # of a difference, by what differs; the other differences are columns and reported by name
    "state": "state differs by up to {worst:.3g} {unit}",
    "action": "action by up to {worst:.3g} {unit} from what was played",
    "next.reward": "next.reward by up to {worst:.3g}",
    "picture": "picture by up to {worst:.3g} of 255 on average",
}


@dataclass(frozen=True)
class Tolerance:
    """How far an episode may be from its replay."""

    state: float  # in the task's unit
    reward: float = 1e-6
    progress: float = 0.0  # an episode this near to the goal may be a success or not
    picture: float = 0.0  # mean over a picture of the difference of its values, of 255

    @classmethod
    def of(cls, task: Recordable, recipe: Recipe) -> "Tolerance":
        if recipe.simulated:
            tolerance = cls(task.recording.replay_tolerance, picture=task.recording.picture_tolerance)
        else:
            tolerance = cls(task.recording.import_tolerance, reward=0.005, progress=0.005, picture=0.3)
        return replace(tolerance, picture=30.0) if recipe.video else tolerance


@dataclass(frozen=True)
class Comparison:
    """An episode of T frames beside its replay in the stock environment."""

    state: np.ndarray  # (T,) difference of the stored states, in the task's unit
    action: np.ndarray  # (T,) difference of the stored actions, in the task's unit
    picture: np.ndarray  # (T,) mean difference of the stored pictures, of 255
    reward: np.ndarray  # (T,) of the replay
    progress: np.ndarray  # (T,) of the replay, after each action
    is_success: np.ndarray  # (T,) bool, of the replay
    histograms: list[np.ndarray]  # of the replay's pictures, if a video was made of them


def verify(dataset: Dataset) -> bool:
    """Replay every episode and print which differ and by how much.

    Returns:
        whether none differs.

    Raises:
        UserError: Ctrl-C came before the end, or a file is damaged.
    """
    verifier = _Verifier(dataset)
    with StopRequest("this episode") as stop, _bar(dataset) as bar:
        start = 0
        for row, table in stored_episodes(dataset):
            if difference := verifier.difference(row, columns(dataset, row, table), start):
                tqdm.write(difference)
            start += row["length"]
            bar.update()
            if stop() and verifier.seen < dataset.episodes:
                raise UserError(f"{dataset.root}: interrupted; so far {verifier.summary()}")
    print(f"{dataset.root}: {verifier.summary()}")
    wrong = _wrong_totals(dataset)
    if wrong:
        print(f"{dataset.root / STATS}: not those of the episodes: {', '.join(wrong)}")
    return verifier.same == verifier.seen and not wrong


def _bar(dataset: Dataset) -> tqdm:
    return tqdm(total=dataset.episodes, unit="episode", desc="replaying", dynamic_ncols=True, disable=None)


class _Verifier:
    """Replays episodes, and counts those that differ."""

    def __init__(self, dataset: Dataset) -> None:
        recipe = dataset.notes.recipe
        self.task, self.recipe, self.features = dataset.task, recipe, dataset.features
        self.tolerance = Tolerance.of(self.task, recipe)
        side = recipe.resolution if recipe.observations == "pixels" else 0
        self.env = self.task.vector_env(1, side, stock=True)
        self.background = self.task.recording.background(side) if recipe.video else None
        self.seen = self.same = 0
        self.worst = {"state": 0.0, "next.reward": 0.0, "picture": 0.0}

    def difference(self, row: dict[str, Any], stored: dict[str, np.ndarray], start: int) -> str:
        """What differs, in a sentence; empty if nothing does.

        Args:
            row: of `meta/episodes`.
            stored: the frames' values by column.
            start: frames before this episode.
        """
        comparison = self._compare(row["seed"], stored)
        found = self._amounts(comparison, stored) | self._labels(row, comparison, stored, start)
        found |= self._stats(row, comparison, stored)
        self.worst = {name: np.maximum(value, found[name].max()) for name, value in self.worst.items()}
        limits = {"state": self.tolerance.state, "next.reward": self.tolerance.reward}
        limits |= {"picture": self.tolerance.picture}
        wrong = {name: ~(values <= limits.get(name, 0.0)) for name, values in found.items()}  # NaN is wrong
        unit = self.task.recording.unit
        parts = [_sentence(name, found[name], where, unit) for name, where in wrong.items() if where.any()]
        self.seen += 1
        self.same += not parts
        seed = f" (seed {row['seed']})" if row["seed"] >= 0 else ""
        return f"episode {row['episode_index']}{seed}: {'; '.join(parts)}" if parts else ""

    def summary(self) -> str:
        unit, replays_in = self.task.recording.unit, self.task.recording.replays_in
        within = "exactly" if self.recipe.simulated else f"within {self.tolerance.state:g} {unit}"
        where = " where something is drawn" if self.recipe.video else ""
        if self.recipe.video:
            within += f", their video within {self.tolerance.picture:g} of 255,"
        state, reward, picture = self.worst.values()
        return (
            f"{self.same} of {self.seen} episodes replay {within} in {replays_in} "
            f"(at most off: state {state:.3g} {unit}, reward {reward:.3g}, "
            f"picture {picture:.3g} of 255{where})"
        )

    def _compare(self, seed: int, stored: dict[str, np.ndarray]) -> Comparison:
        recording, exact = self.task.recording, self.recipe.simulated
        space = self.env.single_action_space
        noise, is_success = ActionNoise(self.recipe, max(seed, 0), space), False
        state = np.atleast_1d(stored["sim.state"][0]) if "sim.state" in stored else np.empty(0)
        options = recording.reset_options(state) if seed < 0 else None
        played = stored.get("sim.action", stored["action"])
        playable = _playable(played.reshape(len(played), -1), space)
        steps, histograms = [], []
        again = replay(self.env, playable, max(seed, 0), options)
        before, *_ = next(again)
        for t, (after, reward, infos) in enumerate(again):
            frame = {name: np.atleast_1d(values[t]) for name, values in stored.items()}
            state = recording.difference(before, frame, exact)
            picture = self._picture_difference(before, frame) if IMAGE in stored else 0.0
            if self.recipe.video:
                histograms.append(histogram(before["pixels"][0]))
            action = np.abs(noise.disturb(frame["action"], is_success) - playable[t]).max()
            before, is_success = after, bool(infos["is_success"][0])
            steps.append((state, action, picture, reward, infos["progress"][0], is_success))
        state, action, picture, reward, progress, successes = np.array(steps).T
        return Comparison(state, action, picture, reward, progress, successes > 0, histograms)

    def _picture_difference(self, observations: dict, stored: dict[str, np.ndarray]) -> float:
        drawn = observations["pixels"][0]
        distances = np.abs(stored[IMAGE].astype(int) - drawn)
        if self.background is not None:
            distances = distances[(drawn != self.background).any(axis=-1)]
        return distances.mean()

    def _amounts(self, comparison: Comparison, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {
            "state": comparison.state,
            "action": comparison.action,
            "next.reward": np.abs(stored["next.reward"] - comparison.reward),
            "picture": comparison.picture,
        }

    def _labels(
        self, row: dict[str, Any], comparison: Comparison, stored: dict[str, np.ndarray], start: int
    ) -> dict[str, np.ndarray]:
        """Where the other columns and the episode's row are wrong."""
        progress, is_success = comparison.progress, comparison.is_success
        sure = np.abs(progress - self.task.progress_goal) >= self.tolerance.progress
        frames = np.arange(len(is_success))
        success = final_successes(is_success) > self.recipe.hold
        max_progress = max_progress_name(self.task)
        gap = abs(row[max_progress] - progress.max())
        return {
            "next.success": sure & (stored["next.success"] != is_success),
            "next.done": stored["next.done"] != (frames == frames[-1]),
            "timestamp": ~(
                np.abs(stored["timestamp"] - frames / self.task.fps) <= TIMESTAMP_TOLERANCE_S * len(frames)
            ),
            "frame_index": stored["frame_index"] != frames,
            "index": stored["index"] != start + frames,
            "episode_index": stored["episode_index"] != row["episode_index"],
            "task_index": stored["task_index"] != 0,
            "success in meta/episodes": sure[-1:] & (row["success"] != success),
            f"{max_progress} in meta/episodes": np.array([not gap <= self.tolerance.reward]),
        }

    def _stats(
        self, row: dict[str, Any], comparison: Comparison, stored: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Which statistics of the episode are not those of its values."""
        columns = self.features.keys() - {IMAGE}
        values = {name: stored[name].astype(self.features[name]["dtype"]) for name in columns}
        values["timestamp"] = np.arange(len(comparison.progress)) / self.task.fps  # not the stored float32
        # A column that is not finite has none, and is reported already.
        stats = {name: column_stats(column) for name, column in values.items() if np.isfinite(column).all()}
        if IMAGE in stored and not self.recipe.video:
            stats[IMAGE] = picture_stats([histogram(picture) for picture in stored[IMAGE]])
        elif IMAGE in stored and self.recipe.simulated:
            stats[IMAGE] = picture_stats(comparison.histograms)
        # The root of a difference of two sums of float32: another processor's may differ in most digits.
        right = {name: _agree(_stored_stats(row, name), stats[name], std=1e-3) for name in sorted(stats)}
        return {f"stats of {name} in meta/episodes": np.array([not same]) for name, same in right.items()}


def _wrong_totals(dataset: Dataset) -> list[str]:
    """Features whose values in `meta/stats.json` are not those of all episodes together.

    Raises:
        UserError: a file is damaged.
    """
    folder = dataset.root / "meta/episodes"
    with reading(folder):
        expected = all_stats(folder)
    with reading(dataset.root / STATS):
        return [name for name in dataset.features if not _agree(dataset.stats[name], expected.get(name, {}))]


def _stored_stats(row: dict[str, Any], feature: str) -> dict[str, Any]:
    start = f"stats/{feature}/"
    return {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}


def _agree(stored: dict[str, Any], expected: dict[str, np.ndarray], std: float = STATS_TOLERANCE) -> bool:
    """Whether statistics are equal but for rounding.

    Args:
        stored: as in the dataset.
        expected: recomputed.
        std: share of the largest value by which a standard deviation may be off.
    """
    if stored.keys() != expected.keys():
        return False
    scale = max(np.abs(expected["min"]).max(), np.abs(expected["max"]).max())
    for name, values in expected.items():
        there = np.asarray(stored[name])
        if there.dtype.kind not in "biuf" or there.shape != values.shape:
            return False
        gaps = np.abs(there.astype(np.float64) - values)
        if not (gaps <= scale * (std if name == "std" else STATS_TOLERANCE)).all():
            return False
    return True


def _playable(actions: np.ndarray, space: spaces.Box) -> np.ndarray:
    """Actions (T, A) float64 that the simulator survives; those within the space are as they were."""
    span = space.high - space.low
    return np.clip(np.nan_to_num(actions.astype(np.float64)), space.low - span, space.high + span)


def _sentence(name: str, values: np.ndarray, wrong: np.ndarray, unit: str) -> str:
    if name.endswith("meta/episodes"):
        return name
    amount = SENTENCES.get(name, "{name} in {count} frames").format(
        name=name, unit=unit, worst=float(values.max()), count=np.count_nonzero(wrong)
    )
    return f"{amount}, first in frame {int(np.argmax(wrong))}"
