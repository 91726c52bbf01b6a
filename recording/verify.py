"""Play a dataset's actions again in the unmodified environment and compare everything that is stored.

An episode starts from its seed, or from its first state where it has none. What was recorded here has to come
out equal; demonstrations from elsewhere, recorded with another version of the physics, to a pixel.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.video_utils import decode_video_frames
from tqdm import tqdm

from envs.observations import SUCCESS_COVERAGE
from envs.vector import PushTVectorEnv
from recording.dataset import Dataset
from recording.files import Tail
from recording.pictures import decode_png
from recording.schema import FPS, IMAGE, Recipe

LEVER = 100.0  # pixels from the T's middle to its far end: what an angle is worth
ROUNDING = 1e-6  # of float32 beside float64, in pixels or rewards; far below any difference that matters


@dataclass(frozen=True)
class Tolerance:
    """How far an episode may be from its replay."""

    state: float = 1e-4  # pixels; a float32 of 500 is off by 3e-5
    reward: float = 1e-6
    picture: float = 0.0  # mean over a picture of the difference of its values, of 255

    @classmethod
    def of(cls, recipe: Recipe) -> "Tolerance":
        if recipe.policy == "import":
            return cls(state=1.0, reward=0.05, picture=1.5)
        return cls(picture=8.0) if recipe.video else cls()


def verify(dataset: Dataset) -> bool:
    """Replay every episode, print which differ and by how much; returns whether none does."""
    recipe, differing = dataset.notes.recipe, 0
    tolerance = Tolerance.of(recipe)
    side = recipe.resolution if recipe.observations == "pixels" else 0
    env = PushTVectorEnv(1, "stock", side)
    worst = np.zeros(3)
    with tqdm(
        total=dataset.episodes, unit="episode", desc="replaying", dynamic_ncols=True, disable=None
    ) as bar:
        for row, table in stored_episodes(dataset):
            found = differences(env, recipe, row, _columns(dataset, row, table))
            amounts = {name: float(np.max(values, initial=0.0)) for name, values in found.items()}
            wrong = [name for name, amount in amounts.items() if amount > getattr(tolerance, name, 0.0)]
            worst = np.maximum(worst, [amounts[name] for name in ("state", "reward", "picture")])
            if wrong:
                differing += 1
                tqdm.write(_sentence(row, found, wrong, tolerance))
            bar.update()
    same = dataset.episodes - differing
    within = f"within {tolerance.state:g} px" if recipe.policy == "import" else "exactly"
    print(
        f"{dataset.root}: {same} of {dataset.episodes} episodes replay {within} in gym_pusht/PushT-v0 "
        f"(at most off: state {worst[0]:.3g} px, reward {worst[1]:.3g}, picture {worst[2]:.3g} of 255)"
    )
    return not differing


def stored_episodes(dataset: Dataset) -> Iterator[tuple[dict[str, Any], pa.Table]]:
    """The row of `meta/episodes` and the frames of each episode."""
    wanted = ["episode_index", "length", "seed", "success", "max_coverage"]
    wanted += ["dataset_from_index", "data/chunk_index", "data/file_index"]
    if dataset.notes.recipe.video:
        wanted += [f"videos/{IMAGE}/from_timestamp"]
    for path in sorted((dataset.root / "meta/episodes").rglob("*.parquet")):
        path_of_data, start = None, 0
        for row in pq.read_table(path, columns=wanted).to_pylist():
            place = dataset.root / _tail(row).data
            if place != path_of_data:
                path_of_data, table = place, pq.read_table(place)
                start = table["index"][0].as_py()
            yield row, table.slice(row["dataset_from_index"] - start, row["length"])


def differences(
    env: PushTVectorEnv, recipe: Recipe, row: dict[str, Any], stored: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """How far each frame is from a replay: (T,) each of state in pixels, reward, success, picture, label."""
    steps, imported = len(stored["action"]), row["seed"] < 0
    start = stored["sim.state"][0, :5] if imported else np.full(5, np.nan)
    observations, _ = env.reset(seed=[max(row["seed"], 0)], options={"states": start[None]})
    played = stored.get("sim.action", stored["action"]).astype(np.float64)
    found = {name: np.zeros(steps) for name in ("state", "reward", "success", "picture", "label")}
    for t in range(steps):
        found["state"][t] = _state_difference(observations, {k: v[t] for k, v in stored.items()}, imported)
        if IMAGE in stored:
            found["picture"][t] = np.abs(stored[IMAGE][t].astype(int) - observations["pixels"][0]).mean()
        env.advance(played[t][None], np.ones(1, bool))
        observations, coverage = env.observations(), env.infos()["coverage"][0]
        found["reward"][t] = abs(stored["next.reward"][t] - min(coverage / SUCCESS_COVERAGE, 1.0))
        if not imported:
            found["success"][t] = stored["next.success"][t] != (coverage > SUCCESS_COVERAGE)
    found["label"] += stored["next.done"] != (np.arange(steps) == steps - 1)
    found["label"] += np.abs(stored["timestamp"] - np.arange(steps) / FPS) > ROUNDING * steps
    found["label"] += stored["episode_index"] != row["episode_index"]
    return found


def _state_difference(observations: dict, stored: dict[str, np.ndarray], imported: bool) -> float:
    agent, pose = observations["agent_pos"][0], observations["block_pose"][0]
    state = stored["sim.state"]
    turn = (state[4] - pose[2] + np.pi) % (2 * np.pi) - np.pi
    gaps = [stored["observation.state"] - agent, state[:2] - agent, state[2:4] - pose[:2], [LEVER * turn]]
    if not imported:
        gaps.append(state[5:] - observations["agent_vel"][0])
    if "observation.environment_state" in stored:
        gaps.append(stored["observation.environment_state"] - observations["keypoints"][0].ravel())
    return float(np.abs(np.concatenate(gaps)).max())


def _columns(dataset: Dataset, row: dict[str, Any], table: pa.Table) -> dict[str, np.ndarray]:
    """An episode's values by feature, pictures (T, side, side, 3) uint8 RGB."""
    values = {name: np.array(table[name].to_pylist()) for name in table.column_names if name != IMAGE}
    if IMAGE in table.column_names:
        values[IMAGE] = np.stack([decode_png(picture["bytes"]) for picture in table[IMAGE].to_pylist()])
    elif dataset.notes.recipe.video:
        start = row[f"videos/{IMAGE}/from_timestamp"]
        times = [start + t / FPS for t in range(row["length"])]
        video = dataset.root / _tail(row).video(IMAGE)
        frames = decode_video_frames(video, times, 1e-3, backend="pyav")
        values[IMAGE] = (frames.permute(0, 2, 3, 1) * 255).round().byte().numpy()
    return values


def _tail(row: dict[str, Any]) -> Tail:
    return Tail.at(row["data/chunk_index"], row["data/file_index"])


def _sentence(
    row: dict[str, Any], found: dict[str, np.ndarray], wrong: list[str], tolerance: Tolerance
) -> str:
    parts = []
    for name in wrong:
        first = int(np.argmax(found[name] > getattr(tolerance, name, 0.0)))
        amount = {
            "state": f"state differs by up to {found[name].max():.3g} px",
            "reward": f"next.reward by up to {found[name].max():.3g}",
            "success": f"next.success in {int(found[name].sum())} frames",
            "picture": f"picture by up to {found[name].max():.3g} of 255 on average",
            "label": f"next.done, timestamp or episode_index in {np.count_nonzero(found[name])} frames",
        }[name]
        parts.append(f"{amount}, first in frame {first}")
    seed = f" (seed {row['seed']})" if row["seed"] >= 0 else ""
    return f"episode {row['episode_index']}{seed}: {'; '.join(parts)}"
