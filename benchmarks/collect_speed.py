"""Frames recorded per second, by collect_dataset.py and by a plain loop with LeRobot's recorder.

    python benchmarks/collect_speed.py                      about two minutes; prints a table, writes JSON
    python benchmarks/collect_speed.py --repeats 5 --json FILE

The plain loop is that of LeRobot's documentation: `gym_pusht/PushT-v0`, one action at a time, `add_frame` and
`save_episode`, all options at their defaults. Both play the shipped expert from the same starts and end with
a closed dataset on the disk; they take turns. A rate is the median over the turns, in frames per second of
CPU time of one process, and by the clock.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import datasets
import gym_pusht  # noqa: F401  registers gym_pusht/PushT-v0
import gymnasium
import numpy as np
import torch
import tyro
from lerobot.datasets import LeRobotDataset

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from common.errors import report_user_errors
from common.provenance import provenance, write_report
from envs.pusht.task import PushT
from policies import EXPERT, load_policy
from recording.dataset import Dataset, Notes
from recording.recorder import record
from recording.schema import IMAGE, Recipe, features
from recording.workers import SEEDS_PER_BLOCK, BlockRecorder

KINDS: dict[str, dict[str, Any]] = {
    "PNG": {"hold": 0, "observations": "pixels"},
    "video": {"hold": 0, "observations": "pixels", "video": True},
    "keypoints, no pictures": {"hold": 0, "observations": "keypoints"},
}
PLAIN, OURS = "LeRobot's recorder", "ours"


def main(
    json: Path = Path("logs/benchmarks/collect_speed.json"), repeats: int = 3, episodes: int = SEEDS_PER_BLOCK
) -> None:
    """Measure, print, write.

    Args:
        json: where to write the results.
        repeats: turns of each.
        episodes: recorded in a turn.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    rates: dict[str, dict[str, list]] = {kind: {PLAIN: [], OURS: []} for kind in KINDS}
    for turn in range(repeats + 1):
        for kind, settings in KINDS.items():
            for who, recorder in ((PLAIN, plain), (OURS, ours)):
                rate = measure(recorder, Recipe(policy="expert", **settings), 2 if turn == 0 else episodes)
                if turn > 0:  # the first compiles and opens what is opened once
                    rates[kind][who].append(rate)
    results = {
        kind: {who: tuple(map(statistics.median, zip(*turns, strict=True))) for who, turns in both.items()}
        for kind, both in rates.items()
    }
    results["LeRobot's video, our PNG"] = {PLAIN: results["video"][PLAIN], OURS: results["PNG"][OURS]}
    print_table(results)
    write_report(json, report(results, rates))


def measure(recorder: Callable, recipe: Recipe, episodes: int) -> tuple[float, float]:
    """Frames per second of CPU time, and by the clock."""
    with tempfile.TemporaryDirectory() as folder:
        cpu, clock = time.process_time(), time.perf_counter()
        frames = recorder(Path(folder) / "dataset", recipe, episodes)
        return frames / (time.process_time() - cpu), frames / (time.perf_counter() - clock)


def plain(root: Path, recipe: Recipe, episodes: int) -> int:
    """Returns the number of frames."""
    wanted = {name: feature for name, feature in features(PushT(), recipe).items() if name != "sim.state"}
    dataset = LeRobotDataset.create("local/plain", PushT.fps, wanted, root=root, video_backend="pyav")
    pixels = recipe.observations == "pixels"
    kind = "pixels_agent_pos" if pixels else "environment_state_agent_pos"
    env, policy = gymnasium.make("gym_pusht/PushT-v0", obs_type=kind), load_policy(EXPERT)
    for seed in range(recipe.seed, recipe.seed + episodes):
        observation, _ = env.reset(seed=seed)
        policy.reset(np.array([0]))
        done = False
        while not done:
            action = policy.act(raw(env.unwrapped))[0].astype(np.float32)
            seen = {"observation.state": observation["agent_pos"].astype(np.float32), "action": action}
            if pixels:
                seen[IMAGE] = observation["pixels"]
            else:
                seen["observation.environment_state"] = observation["environment_state"].astype(np.float32)
            observation, reward, terminated, truncated, info = env.step(action)
            done = terminated or truncated
            seen["next.reward"] = np.array([reward], np.float32)
            seen["next.done"], seen["next.success"] = np.array([done]), np.array([bool(info["is_success"])])
            dataset.add_frame(seen | {"task": PushT.sentence})
        dataset.save_episode()
    dataset.finalize()
    return dataset.meta.total_frames


def raw(simulator) -> dict[str, np.ndarray]:
    """The observations that the expert uses."""
    agent, block = simulator.agent, simulator.block
    return {
        "agent_pos": np.array([agent.position]),
        "agent_vel": np.array([agent.velocity]),
        "block_pose": np.array([(*block.position, block.angle)]),
    }


def ours(root: Path, recipe: Recipe, episodes: int) -> int:
    """Returns the number of frames."""
    dataset = Dataset(root, Notes(recipe, next_seed=recipe.seed))
    recorder = BlockRecorder(recipe, str(EXPERT), block_size=episodes)
    record(dataset, recorder, episodes, workers=1, give_up=episodes)
    return dataset.frames


def print_table(results: dict) -> None:
    print(f"{'frames per second':26}{PLAIN:>22}{OURS:>12}{'ratio':>9}{'by the clock':>16}")
    for kind, rates in results.items():
        (cpu, clock), (our_cpu, our_clock) = rates[PLAIN], rates[OURS]
        ratios = f"{our_cpu / cpu:8.1f}x{our_clock / clock:15.1f}x"
        print(f"{kind:26}{cpu:22,.0f}{our_cpu:12,.0f}{ratios}")


def report(results: dict, rates: dict) -> dict:
    return provenance("lerobot", "gym-pusht", "datasets", "pyarrow", "pillow") | {
        "unit": "frames per second of CPU time, and by the clock; medians over turns",
        "rates": results,
        "turns": rates,
    }


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
