"""Play a dataset's actions again in the unmodified environment and compare everything that is stored.

What was recorded here starts from its seed, without looking at a stored state, and has to come out equal.
Demonstrations from elsewhere have no seed: they start from their first stored state, and have to come out
equal to a pixel, as they were recorded with another version of the physics. Of a video only the part is
looked at where something is drawn, since an empty board is most of every picture.

Statistics, by which policies scale what they see and do, are made anew from the stored values; those of a
video from the pictures of the replay, which it was made of, unless it was made of somebody else's.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.video_utils import decode_video_frames
from tqdm import tqdm

from common.errors import UserError
from common.run import StopRequest
from envs.pusht.observations import FPS, SUCCESS_COVERAGE, wrap_angle
from envs.pusht.renderer import Renderer
from envs.pusht.vector import StockPushTVectorEnv
from envs.rollout import replay
from recording.dataset import STATS, Dataset, all_stats
from recording.files import NumberedFile, reading
from recording.pictures import decode_png, histogram, picture_stats
from recording.play import Noise, steps_on_place
from recording.schema import IMAGE, Recipe, column_stats

LEVER = 100.0  # pixels from the T's middle to its far end: what an angle is worth
ROUNDING = 1e-6  # of float32 beside float64, in pixels or rewards; far below any difference that matters
WORDS = {  # of a difference, by what differs; the others are columns and told by their name
    "state": "state differs by up to {worst:.3g} px",
    "action": "action by up to {worst:.3g} px from what was played",
    "next.reward": "next.reward by up to {worst:.3g}",
    "picture": "picture by up to {worst:.3g} of 255 on average",
}


@dataclass(frozen=True)
class Tolerance:
    """How far an episode may be from its replay."""

    state: float = 1e-4  # pixels; a float32 of 500 is off by 3e-5
    reward: float = 1e-6
    doubt: float = 0.0  # coverage this near to the threshold may be a success or not
    picture: float = 0.0  # mean over a picture of the difference of its values, of 255

    @classmethod
    def of(cls, recipe: Recipe) -> "Tolerance":
        elsewhere = cls(state=1.0, reward=0.005, doubt=0.005, picture=0.3)
        tolerance = cls() if recipe.simulated else elsewhere
        return replace(tolerance, picture=30.0) if recipe.video else tolerance


@dataclass(frozen=True)
class Replay:
    """An episode of T frames as the stock environment plays it."""

    state: np.ndarray  # (T,) pixels by which the stored states are off
    action: np.ndarray  # (T,) pixels by which the stored actions are
    picture: np.ndarray  # (T,) of 255
    coverage: np.ndarray  # (T,) after each action
    histograms: list[np.ndarray]  # of the pictures as they are drawn, if a video was made of them


def verify(dataset: Dataset) -> bool:
    """Replay every episode, print which differ and by how much; returns whether none does.

    Raises:
        UserError: Ctrl-C came before the end, or a file is damaged.
    """
    judge = _Judge(dataset)
    look = {"unit": "episode", "desc": "replaying", "dynamic_ncols": True, "disable": None}
    with StopRequest("this episode") as stop, tqdm(total=dataset.episodes, **look) as bar:
        start = 0
        for row, table in stored_episodes(dataset):
            if difference := judge.difference(row, _columns(dataset, row, table), start):
                tqdm.write(difference)
            start += row["length"]
            bar.update()
            if stop() and bar.n < dataset.episodes:
                raise UserError(f"{dataset.root}: interrupted; so far {judge.summary()}")
    print(f"{dataset.root}: {judge.summary()}")
    wrong = _wrong_totals(dataset)
    if wrong:
        print(f"{dataset.root / STATS}: not those of the episodes: {', '.join(wrong)}")
    return judge.same == judge.seen and not wrong


def stored_episodes(dataset: Dataset) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """The row of `meta/episodes` and the frames of each episode.

    Raises:
        UserError: a file is damaged.
    """
    wanted = ["episode_index", "length", "seed", "success", "max_coverage"]
    wanted += ["dataset_from_index", "data/chunk_index", "data/file_index"]
    if dataset.notes.recipe.video:
        wanted += [f"videos/{IMAGE}/from_timestamp"]
    opened = None
    for path in sorted((dataset.root / "meta/episodes").rglob("*.parquet")):
        with reading(path):
            episodes = pq.read_table(path)
            stats = [name for name in episodes.column_names if name.startswith("stats/")]
            rows = episodes.select(wanted + stats).to_pylist()
        for row in rows:
            place = dataset.root / _file(row).data
            with reading(place):
                if place != opened:
                    opened, table, start = place, pq.read_table(place), row["dataset_from_index"]
                frames = table.slice(row["dataset_from_index"] - start, row["length"])
                if len(frames) != row["length"]:
                    raise ValueError(f"it holds {len(frames)} frames of episode {row['episode_index']}")
            yield row, frames


class _Judge:
    """Replays episodes, and counts those that differ."""

    def __init__(self, dataset: Dataset) -> None:
        recipe = dataset.notes.recipe
        self.recipe, self.features, self.tolerance = recipe, dataset.features, Tolerance.of(recipe)
        side = recipe.resolution if recipe.observations == "pixels" else 0
        self.env = StockPushTVectorEnv(1, side)
        self.background = Renderer(side, side).background if recipe.video else None
        self.seen = self.same = 0
        self.worst = {"state": 0.0, "next.reward": 0.0, "picture": 0.0}

    def difference(self, row: dict[str, Any], stored: dict[str, np.ndarray], start: int) -> str:
        """What differs, in a sentence; empty if nothing does.

        Args:
            row: of `meta/episodes`.
            stored: the frames' values by column.
            start: frames before this episode.
        """
        replay = self._replay(row["seed"], stored)
        found = self._amounts(replay, stored) | self._labels(row, replay, stored, start)
        found |= self._stats(row, replay, stored)
        self.worst = {name: np.maximum(value, found[name].max()) for name, value in self.worst.items()}
        limits = {"state": self.tolerance.state, "next.reward": self.tolerance.reward}
        limits |= {"picture": self.tolerance.picture}
        wrong = {name: ~(values <= limits.get(name, 0.0)) for name, values in found.items()}  # NaN is wrong
        parts = [_sentence(name, found[name], where) for name, where in wrong.items() if where.any()]
        self.seen += 1
        self.same += not parts
        seed = f" (seed {row['seed']})" if row["seed"] >= 0 else ""
        return f"episode {row['episode_index']}{seed}: {'; '.join(parts)}" if parts else ""

    def summary(self) -> str:
        within = "exactly" if self.recipe.simulated else f"within {self.tolerance.state:g} px"
        where = " where something is drawn" if self.recipe.video else ""
        if self.recipe.video:
            within += f", their video within {self.tolerance.picture:g} of 255,"
        state, reward, picture = self.worst.values()
        return (
            f"{self.same} of {self.seen} episodes replay {within} in gym_pusht/PushT-v0 "
            f"(at most off: state {state:.3g} px, reward {reward:.3g}, picture {picture:.3g} of 255{where})"
        )

    def _replay(self, seed: int, stored: dict[str, np.ndarray]) -> Replay:
        start = _sane(stored["sim.state"][0, :5]) if seed < 0 else np.full(5, np.nan)
        noise, on_place = Noise(self.recipe, max(seed, 0)), False
        played = stored.get("sim.action", stored["action"])
        again = replay(self.env, _sane(played), max(seed, 0), {"states": start[None]})
        observations, _, _ = next(again)
        steps, histograms = [], []
        for t, (after, _, infos) in enumerate(again):
            frame = {name: values[t] for name, values in stored.items()}
            state = _state_difference(observations, frame, self.recipe.simulated)
            picture = self._picture_difference(observations, frame) if IMAGE in stored else 0.0
            if self.recipe.video:
                histograms.append(histogram(observations["pixels"][0]))
            action = np.abs(noise.disturb(frame["action"], on_place) - _sane(played[t])).max()
            observations, coverage = after, infos["progress"][0]
            on_place = coverage > SUCCESS_COVERAGE
            steps.append((state, action, picture, coverage))
        return Replay(*np.array(steps).T, histograms)

    def _picture_difference(self, observations: dict, stored: dict[str, np.ndarray]) -> float:
        drawn = observations["pixels"][0]
        distances = np.abs(stored[IMAGE].astype(int) - drawn)
        if self.background is not None:
            distances = distances[(drawn != self.background).any(axis=-1)]
        return distances.mean()

    def _amounts(self, replay: Replay, stored: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        rewards = np.minimum(replay.coverage / SUCCESS_COVERAGE, 1.0)
        return {
            "state": replay.state,
            "action": replay.action,
            "next.reward": np.abs(stored["next.reward"] - rewards),
            "picture": replay.picture,
        }

    def _labels(
        self, row: dict[str, Any], replay: Replay, stored: dict[str, np.ndarray], start: int
    ) -> dict[str, np.ndarray]:
        """Where the other columns and the episode's row are wrong."""
        on_place = replay.coverage > SUCCESS_COVERAGE
        sure = np.abs(replay.coverage - SUCCESS_COVERAGE) >= self.tolerance.doubt
        frames = np.arange(len(on_place))
        success = steps_on_place(replay.coverage) > self.recipe.hold
        coverage_gap = abs(row["max_coverage"] - replay.coverage.max())
        return {
            "next.success": sure & (stored["next.success"] != on_place),
            "next.done": stored["next.done"] != (frames == frames[-1]),
            "timestamp": ~(np.abs(stored["timestamp"] - frames / FPS) <= ROUNDING * len(frames)),
            "frame_index": stored["frame_index"] != frames,
            "index": stored["index"] != start + frames,
            "episode_index": stored["episode_index"] != row["episode_index"],
            "task_index": stored["task_index"] != 0,
            "success in meta/episodes": sure[-1:] & (row["success"] != success),
            "max_coverage in meta/episodes": np.array([not coverage_gap <= self.tolerance.reward]),
        }

    def _stats(
        self, row: dict[str, Any], replay: Replay, stored: dict[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Which statistics of the episode are not those of its values."""
        columns = self.features.keys() - {IMAGE}
        values = {name: stored[name].astype(self.features[name]["dtype"]) for name in columns}
        values["timestamp"] = np.arange(len(replay.coverage)) / FPS  # not the float32 that is stored
        # Of what is no number there are none, and where it is has been told.
        stats = {name: column_stats(column) for name, column in values.items() if np.isfinite(column).all()}
        if IMAGE in stored and not self.recipe.video:
            stats[IMAGE] = picture_stats([histogram(picture) for picture in stored[IMAGE]])
        elif IMAGE in stored and self.recipe.simulated:
            stats[IMAGE] = picture_stats(replay.histograms)
        # The root of a difference of two sums of float32: another processor's may have few digits in common.
        right = {name: _agree(_stored_stats(row, name), stats[name], std=1e-3) for name in sorted(stats)}
        return {f"stats of {name} in meta/episodes": np.array([not same]) for name, same in right.items()}


def _wrong_totals(dataset: Dataset) -> list[str]:
    """Features of which `meta/stats.json` has not what the episodes come to.

    Raises:
        UserError: a file is damaged.
    """
    folder = dataset.root / "meta/episodes"
    with reading(folder):
        expected = all_stats(folder)
    with reading(dataset.root / STATS):
        return [name for name in dataset.features if not _agree(dataset.stats[name], expected[name])]


def _stored_stats(row: dict[str, Any], feature: str) -> dict[str, Any]:
    start = f"stats/{feature}/"
    return {name.removeprefix(start): value for name, value in row.items() if name.startswith(start)}


def _agree(told: dict[str, Any], expected: dict[str, np.ndarray], std: float = 1e-5) -> bool:
    """Whether statistics are equal but for rounding.

    Args:
        told: as stored.
        expected: as they should be.
        std: by which share of the largest value a standard deviation may be off.
    """
    if told.keys() != expected.keys():
        return False
    scale = max(np.abs(expected["min"]).max(), np.abs(expected["max"]).max())
    for name, values in expected.items():
        gaps = np.abs(np.asarray(told[name], np.float64) - values)
        if gaps.shape != values.shape or not (gaps <= scale * (std if name == "std" else 1e-5)).all():
            return False
    return True


def _sane(values: np.ndarray) -> np.ndarray:
    """Numbers that the simulator survives; within the board they are as they were."""
    return np.clip(np.nan_to_num(values.astype(np.float64)), -512.0, 1024.0)


def _state_difference(observations: dict, stored: dict[str, np.ndarray], simulated: bool) -> float:
    agent, pose = observations["agent_pos"][0], observations["block_pose"][0]
    state = stored["sim.state"]
    turn = wrap_angle(state[4] - pose[2])
    gaps = [stored["observation.state"] - agent, state[:2] - agent, state[2:4] - pose[:2], [LEVER * turn]]
    if simulated:
        gaps.append(state[5:] - observations["agent_vel"][0])
    if "observation.environment_state" in stored:
        gaps.append(stored["observation.environment_state"] - observations["keypoints"][0].ravel())
    return float(np.abs(np.concatenate(gaps)).max())


def _columns(dataset: Dataset, row: dict[str, Any], table: pa.Table) -> dict[str, np.ndarray]:
    """An episode's values by feature, pictures (T, side, side, 3) uint8 RGB.

    Raises:
        UserError: a picture or the video is damaged.
    """
    recipe, file = dataset.notes.recipe, _file(row)
    values = {name: np.array(table[name].to_pylist()) for name in table.column_names if name != IMAGE}
    if recipe.observations != "pixels":
        return values
    with reading(dataset.root / (file.video(IMAGE) if recipe.video else file.data)):
        if recipe.video:
            pictures = _video_frames(dataset, row)
        else:
            pictures = np.stack([decode_png(picture["bytes"]) for picture in table[IMAGE].to_pylist()])
        if pictures.shape[1:] != (recipe.resolution, recipe.resolution, 3):
            raise ValueError(f"episode {row['episode_index']} has pictures of {pictures.shape[1:3]} pixels")
    return values | {IMAGE: pictures}


def _video_frames(dataset: Dataset, row: dict[str, Any]) -> np.ndarray:
    start = row[f"videos/{IMAGE}/from_timestamp"]
    times = [start + t / FPS for t in range(row["length"])]
    frames = decode_video_frames(dataset.root / _file(row).video(IMAGE), times, 1e-3, backend="pyav")
    return (frames.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def _file(row: dict[str, Any]) -> NumberedFile:
    return NumberedFile.at(row["data/chunk_index"], row["data/file_index"])


def _sentence(name: str, values: np.ndarray, wrong: np.ndarray) -> str:
    if name.endswith("meta/episodes"):
        return name
    amount = WORDS.get(name, "{name} in {count} frames").format(
        name=name, worst=float(values.max()), count=np.count_nonzero(wrong)
    )
    return f"{amount}, first in frame {int(np.argmax(wrong))}"
