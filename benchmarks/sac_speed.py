"""How fast SAC is updated here beside Stable-Baselines3 and CleanRL, and how far from the machine's limit.

    python benchmarks/sac_speed.py                            two minutes and the compiling; a table, JSON
    python benchmarks/sac_speed.py --cleanrl CHECKOUT         with CleanRL, from a clone of its repository

Stable-Baselines3 takes part if it is installed. An update draws a batch and trains critics, actor,
temperature and averages. All have the sizes of `configs/sac_pusht.yaml`. They take turns within one
process; a time is the median over the turns. The limit is the time of the update's matrix products alone,
at the speed that this machine reaches in the largest of them.
"""

import ast
import importlib.util
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import gymnasium
import numpy as np
import torch
import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from common.device import flush_denormals
from common.errors import report_user_errors
from common.provenance import provenance, write_report
from envs.interfaces import Symmetry
from sac.agent import SAC
from sac.augmentation import Mirror
from sac.config import AgentConfig
from sac.replay_buffer import Batch, ReplayBuffer

OBSERVATION_SIZE, ACTION_SIZE = 25, 2  # of configs/sac_pusht.yaml
CONFIG = AgentConfig()
STORED = 100_000  # transitions to draw from
EAGER, COMPILED, SB3, CLEANRL = "ours", "ours, compiled", "Stable-Baselines3", "CleanRL"

Update = Callable[[], object]


def main(
    json: Path = Path("logs/benchmarks/sac_speed.json"),
    turns: int = 15,
    updates: int = 40,
    threads: int = 1,
    cleanrl: Path | None = None,
) -> None:
    """Measure, print, write.

    Args:
        json: where to write the results.
        turns: of each contestant.
        updates: per turn.
        threads: of PyTorch.
        cleanrl: a clone of CleanRL's repository.
    """
    torch.set_num_threads(threads)
    flush_denormals()
    contestants = {EAGER: ours(False), COMPILED: ours(True)}
    if importlib.util.find_spec("stable_baselines3"):
        contestants[SB3] = stable_baselines3()
    else:
        print(f"{SB3} is left out: it is not installed (pip install stable-baselines3)")
    if cleanrl:
        contestants[CLEANRL] = clean_rl(cleanrl)
    else:
        print(f"{CLEANRL} is left out: --cleanrl names a clone of its repository")
    for update in contestants.values():
        for _ in range(10):
            update()
    cpu: dict[str, list[float]] = {name: [] for name in contestants}
    wall: dict[str, list[float]] = {name: [] for name in contestants}
    flops: list[float] = []
    for _ in range(turns):
        flops.append(gemm_flops())
        for name, update in contestants.items():
            started = time.process_time(), time.perf_counter()
            for _ in range(updates):
                update()
            cpu[name].append((time.process_time() - started[0]) / updates)
            wall[name].append((time.perf_counter() - started[1]) / updates)
    numbers = report(cpu, wall, statistics.median(flops)) | {"turns": {"cpu_s": cpu, "wall_s": wall}}
    print_table(numbers)
    write_report(json, provenance("torch") | {"threads": threads} | numbers)


def ours(compile_it: bool) -> Update:
    """The trainer's update, see `Trainer._learn`."""
    agent = SAC(OBSERVATION_SIZE, ACTION_SIZE, replace(CONFIG, compile=compile_it), 1_000_000, seed=0)
    buffer = ReplayBuffer(STORED, OBSERVATION_SIZE, ACTION_SIZE)
    observations, actions, rewards, next_observations = experience()
    discounts = np.full(STORED, 0.94, np.float32)
    buffer.add(Batch(*map(torch.from_numpy, (observations, actions, rewards, next_observations, discounts))))
    unchanged = (np.arange(OBSERVATION_SIZE), np.ones(OBSERVATION_SIZE, np.float32))
    symmetry = Symmetry(*unchanged, np.arange(ACTION_SIZE), np.ones(ACTION_SIZE, np.float32))
    mirror, generator = Mirror(symmetry, "cpu"), torch.Generator().manual_seed(0)
    return lambda: agent.update(mirror(buffer.sample(CONFIG.batch_size, generator)))


def experience() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Observations, actions, rewards and next observations without a meaning, the same for all."""
    rng = np.random.default_rng(0)
    sizes = (OBSERVATION_SIZE,), (ACTION_SIZE,), (), (OBSERVATION_SIZE,)
    observations, actions, rewards, following = (
        rng.normal(size=(STORED, *size)).astype(np.float32) for size in sizes
    )
    return observations, np.tanh(actions), rewards, following


class Spaces(gymnasium.Env):
    """An environment of these sizes that is never played."""

    observation_space = gymnasium.spaces.Box(-10, 10, (OBSERVATION_SIZE,))
    action_space = gymnasium.spaces.Box(-1, 1, (ACTION_SIZE,))


def stable_baselines3() -> Update:
    """Its `SAC.train`, with these sizes and its other defaults."""
    from stable_baselines3 import SAC as Rival
    from stable_baselines3.common.logger import configure

    policy = {"net_arch": list(CONFIG.hidden_sizes)}
    batch_size = CONFIG.batch_size
    rival = Rival(
        "MlpPolicy", Spaces(), policy_kwargs=policy, batch_size=batch_size, buffer_size=STORED, device="cpu"
    )
    rival.set_logger(configure(None, []))
    fill(rival.replay_buffer)
    return lambda: rival.train(gradient_steps=1, batch_size=batch_size)


def clean_rl(repository: Path) -> Update:
    """The lines of its `sac_continuous_action.py` that set up and train, at these sizes."""
    sys.path.insert(0, str(repository))
    (hidden,) = set(CONFIG.hidden_sizes)
    source = (repository / "cleanrl/sac_continuous_action.py").read_text()
    tree = ast.parse(source.replace("256", str(hidden)))
    (script,) = (node for node in tree.body if isinstance(node, ast.If))
    (loop,) = (node for node in script.body if isinstance(node, ast.For))
    training = next(
        node for node in loop.body if "args.learning_starts" in ast.unparse(node) and node is not loop.body[0]
    )
    assert isinstance(training, ast.If)
    lines = [ast.unparse(node) for node in script.body]
    first = next(i for i, line in enumerate(lines) if line.startswith("actor = "))
    last = next(i for i, line in enumerate(lines) if line.startswith("rb = "))

    space = SimpleNamespace(
        single_observation_space=Spaces.observation_space, single_action_space=Spaces.action_space
    )
    names: dict = {"__name__": "cleanrl", "__file__": "", "envs": space, "device": torch.device("cpu")}
    run([node for node in tree.body if node is not script], names)
    names["args"] = names["Args"](batch_size=CONFIG.batch_size, buffer_size=STORED)
    names["writer"] = SimpleNamespace(add_scalar=lambda *_: None)
    run(script.body[first : last + 1], names)
    fill(names["rb"])
    code = compile(ast.Module(training.body, []), "cleanrl", "exec")

    turns = itertools.cycle(range(1, 100))  # it reports at each hundredth

    def update() -> None:
        names["global_step"] = next(turns)
        exec(code, names)

    return update


def run(nodes: list[ast.stmt], names: dict) -> None:
    exec(compile(ast.Module(nodes, []), "cleanrl", "exec"), names)


def fill(buffer) -> None:
    """Fill a buffer of Stable-Baselines3, which CleanRL has too."""
    arrays = buffer.observations, buffer.actions, buffer.rewards, buffer.next_observations
    for array, values in zip(arrays, experience(), strict=True):
        array[:, 0] = values
    buffer.full = True


def products() -> int:
    """Multiplications and additions of an update's matrix products."""
    critic = sum(a * b for a, b in pairwise((OBSERVATION_SIZE + ACTION_SIZE, *CONFIG.hidden_sizes, 1)))
    actor = sum(a * b for a, b in pairwise((OBSERVATION_SIZE, *CONFIG.hidden_sizes, 2 * ACTION_SIZE)))
    # Forwards: actor twice, critics three times. Backwards: weights and inputs of both, of the judging
    # critics the inputs alone; the first layers of actor and critics need no gradient of observations.
    first = CONFIG.hidden_sizes[0]
    backward_actor = 2 * actor - OBSERVATION_SIZE * first
    backward_critic = (
        2 * critic - (OBSERVATION_SIZE + ACTION_SIZE) * first + critic - OBSERVATION_SIZE * first
    )
    count = 2 * actor + backward_actor + CONFIG.num_critics * (3 * critic + backward_critic)
    return 2 * CONFIG.batch_size * count


def gemm_flops() -> float:
    """Floating point operations per second of CPU time in the largest product, the best of 20."""
    a, b = torch.randn(256, 128), torch.randn(128, 128)
    out, best = torch.empty(256, 128), float("inf")
    for _ in range(20):
        started = time.process_time()
        for _ in range(20):
            torch.mm(a, b, out=out)
        best = min(best, (time.process_time() - started) / 20)
    return 2 * 256 * 128 * 128 / best


def report(cpu: dict[str, list[float]], wall: dict[str, list[float]], flops: float) -> dict:
    limit, fastest = products() / flops, statistics.median(cpu[COMPILED])
    return {
        "gemm_flops": flops,
        "limit_s": limit,
        "updates": {
            name: {
                "cpu_s": statistics.median(seconds),
                "wall_s": statistics.median(wall[name]),
                "share_of_limit": limit / statistics.median(seconds),
                "ours_is_faster": statistics.median(seconds) / fastest,
            }
            for name, seconds in cpu.items()
        },
    }


def print_table(numbers: dict) -> None:
    print(f"\nms per update {'CPU':>14}{'wall':>9}{'of the limit':>15}{'beside ours, compiled':>24}")
    for name, row in numbers["updates"].items():
        times = f"{1e3 * row['cpu_s']:9.2f}{1e3 * row['wall_s']:9.2f}"
        print(f"{name:<19}{times}{row['share_of_limit']:14.0%}{row['ours_is_faster']:23.2f}x")
    limit = (
        f"{1e3 * numbers['limit_s']:.2f} ms at {numbers['gemm_flops'] / 1e9:.0f} GFLOP/s of matrix products"
    )
    print(f"limit: {products() / 1e6:.0f} MFLOP take {limit}")


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
