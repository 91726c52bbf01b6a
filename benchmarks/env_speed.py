"""How fast our PushT is beside gym-pusht's, and how far from the physics engine alone.

    python benchmarks/env_speed.py                                 a minute; prints a table, writes JSON
    python benchmarks/env_speed.py --repeats 11 --slice-s 1 --json FILE

Below, a training's environment side with the shipped fast expert acting (`training_side.py`).

Both sides play the same recorded actions, which keep the agent at the block. They take turns within one
process, slice by slice; a rate is the median over the slices. Time is CPU time, so that other work on the
machine counts little, and OpenCV and PyTorch have one thread: all rates are per core.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import gym_pusht  # noqa: F401  registers gym_pusht/PushT-v0
import gymnasium
import numpy as np
import torch
import tyro
from numba import njit

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from benchmarks.training_side import print_training, training_side
from common.errors import report_user_errors
from common.provenance import provenance, write_report
from envs.pusht import physics
from envs.pusht.observations import BOARD_PX
from envs.pusht.simulator import PushTEnv
from envs.pusht.vector import PushTVectorEnv

STOCK, OURS, CHIPMUNK = "gym_pusht/PushT-v0", "pusht_fast/PushT-v0", "Chipmunk"
OBS_TYPES = ("state", "environment_state_agent_pos", "pixels", "pixels_agent_pos")
NUM_ENVS = 32
TRAINING_ENVS = (32, 64, 128)
ALONE, TOGETHER = "steps, state", f"steps, {NUM_ENVS} together"
EPISODE_STEPS = 100

Work = Callable[[], tuple[int, float]]  # a small piece of work -> how many were done, in how many CPU seconds


def main(json: Path = Path("logs/benchmarks/env_speed.json"), repeats: int = 5, slice_s: float = 0.3) -> None:
    """Measure, print, write.

    Args:
        json: where to write the results.
        repeats: slices per measurement.
        slice_s: CPU seconds of a slice.
    """
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    works = contestants()
    for work in works.values():
        work()  # compile, draw backgrounds
    rates = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            rates[name].append(rate(work, slice_s))
    results = {name: statistics.median(values) for name, values in rates.items()}
    training = {num_envs: training_side(num_envs, repeats, slice_s) for num_envs in TRAINING_ENVS}
    print_table(results)
    print_training(training)
    write_report(json, report(results, rates) | {"training": training})


def contestants() -> dict[str, Work]:
    """By the name `what | who`."""
    one_plays, many_play = record_actions(1), record_actions(NUM_ENVS)
    actions = one_plays[:, 0]
    works = {}
    for who in (STOCK, OURS):
        for obs_type in OBS_TYPES:
            env = gymnasium.make(who, obs_type=obs_type)
            works[f"steps, {obs_type} | {who}"] = steps_of(env, actions)
        env = gymnasium.make(who, render_mode="rgb_array")
        works[f"pictures of 680 x 680 | {who}"] = renders_of(env, actions)
        works[f"resets | {who}"] = resets_of(gymnasium.make(who))
    stock_vector = gymnasium.make_vec(STOCK, NUM_ENVS, vectorization_mode="sync")
    works[f"{TOGETHER} | {STOCK}"] = vector_steps_of(stock_vector, many_play)
    works[f"{TOGETHER} | {OURS}"] = vector_steps_of(PushTVectorEnv(NUM_ENVS), many_play)
    works[f"resets, {NUM_ENVS} together | {STOCK}"] = vector_resets_of(stock_vector)
    works[f"resets, {NUM_ENVS} together | {OURS}"] = vector_resets_of(PushTVectorEnv(NUM_ENVS))
    works[f"{ALONE} | {CHIPMUNK}"] = chipmunk_steps(one_plays)
    works[f"{TOGETHER} | {CHIPMUNK}"] = chipmunk_steps(many_play)
    return works


def record_actions(num_envs: int) -> np.ndarray:
    """(EPISODE_STEPS, num_envs, 2) targets near the block, in episodes from seeds 0, 1, ..."""
    env, rng, actions = PushTVectorEnv(num_envs), np.random.default_rng(0), []
    raw, _ = env.reset(seed=list(range(num_envs)))
    for _ in range(EPISODE_STEPS):
        targets = raw["block_pose"][:, :2] + rng.normal(0, 60, (num_envs, 2))
        actions.append(np.clip(targets, 0, BOARD_PX).astype(np.float32))
        raw, *_ = env.step(actions[-1])
    return np.array(actions)


def steps_of(env: gymnasium.Env, actions: np.ndarray) -> Work:
    def work() -> tuple[int, float]:
        env.reset(seed=0)
        start = time.process_time()
        for action in actions:
            env.step(action)
        return len(actions), time.process_time() - start

    return work


def vector_steps_of(env: gymnasium.vector.VectorEnv, actions: np.ndarray) -> Work:
    def work() -> tuple[int, float]:
        env.reset(seed=list(range(NUM_ENVS)))
        start = time.process_time()
        for action in actions:
            env.step(action)
        return len(actions) * NUM_ENVS, time.process_time() - start

    return work


def renders_of(env: gymnasium.Env, actions: np.ndarray) -> Work:
    def work() -> tuple[int, float]:
        env.reset(seed=0)
        seconds = 0.0
        for action in actions[:20]:
            env.step(action)
            start = time.process_time()
            env.render()
            seconds += time.process_time() - start
        return 20, seconds

    return work


def resets_of(env: gymnasium.Env) -> Work:
    def work() -> tuple[int, float]:
        start = time.process_time()
        for seed in range(20):
            env.reset(seed=seed)
        return 20, time.process_time() - start

    return work


def vector_resets_of(env: gymnasium.vector.VectorEnv) -> Work:
    def work() -> tuple[int, float]:
        start = time.process_time()
        env.reset(seed=list(range(NUM_ENVS)))
        return NUM_ENVS, time.process_time() - start

    return work


def chipmunk_steps(actions: np.ndarray) -> Work:
    """The same episodes, but nothing is observed: only the physics and the few sums of the PD controller."""
    targets = actions.astype(np.float64)
    envs = [PushTEnv() for _ in range(targets.shape[1])]

    def work() -> tuple[int, float]:
        for seed, env in enumerate(envs):
            env.reset(seed=seed)
        addresses = np.stack([physics.addresses(env.space, env.agent, env.block) for env in envs])
        start = time.process_time()
        _play(physics.SPACE_STEP, addresses, targets, env.gains, env.substeps, env.dt)
        return targets.shape[0] * targets.shape[1], time.process_time() - start

    return work


@njit
def _play(space_step, addresses, targets, gains, substeps, dt):
    for t in range(targets.shape[0]):
        for i in range(targets.shape[1]):
            physics.advance(space_step, addresses[i], targets[t, i, 0], targets[t, i, 1], gains, substeps, dt)


def rate(work: Work, seconds: float) -> float:
    """How many a CPU second, over a slice of `seconds`."""
    count, spent = 0, 0.0
    while spent < seconds:
        done, took = work()
        count, spent = count + done, spent + took
    return count / spent


def pairs(results: dict[str, float]) -> Iterator[tuple[str, float, float]]:
    """What was measured, gym-pusht's rate, ours."""
    for name, stock in results.items():
        what, who = name.split(" | ")
        if who == STOCK:
            yield what, stock, results[f"{what} | {OURS}"]


def chipmunks_share(results: dict[str, float]) -> dict[str, float]:
    """By what was measured, for everything that steps: the share of our time that its physics takes alone."""
    return {
        what: ours / results[f"{what if what == TOGETHER else ALONE} | {CHIPMUNK}"]
        for what, _, ours in pairs(results)
        if what.startswith("steps")
    }


def print_table(results: dict[str, float]) -> None:
    shares = chipmunks_share(results)
    print(f"{'per second and core':36}{'gym_pusht':>12}{'ours':>12}{'ratio':>9}{'Chipmunk':>12}")
    for what, stock, ours in pairs(results):
        share = f"{100 * shares[what]:10.0f} %" if what in shares else ""
        print(f"{what:36}{stock:12,.0f}{ours:12,.0f}{ours / stock:8.1f}x{share}")
    alone, together = (results[f"{what} | {CHIPMUNK}"] for what in (ALONE, TOGETHER))
    print("Chipmunk: the share of our time that cpSpaceStep takes for the same steps, alone in one compiled")
    print(f"loop ({alone:,.0f} steps per second of one environment, {together:,.0f} of {NUM_ENVS}).")


def report(results: dict[str, float], rates: dict[str, list[float]]) -> dict:
    return provenance("gym-pusht", "gymnasium", "pymunk", "numba", "numpy") | {
        "unit": "per CPU second of one core, median over slices",
        "rates": results,
        "ratios": {what: ours / stock for what, stock, ours in pairs(results)},
        "chipmunks_share_of_our_time": chipmunks_share(results),
        "slices": rates,
    }


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
