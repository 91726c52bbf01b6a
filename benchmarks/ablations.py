"""What matters in the recipe: the same training with one choice changed, a row each.

    python benchmarks/ablations.py                                          all rows, two at a time
    python benchmarks/ablations.py --rows stock_reward no_curriculum --jobs 1

A row is a plain training whose command stands in the table; one that was stopped goes on. Its figure is the
success of its best checkpoint, deterministic, on 500 seeds that chose nothing. Prints a Markdown table of all
that `logs/ablations/` holds; beside each training lie its log and its numbers as JSON.
"""

import os
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from common.checkpoint import load_json
from common.errors import UserError, report_user_errors

LOGS = Path("logs/ablations")
BASE = "--threads 1 --device cpu"  # about 15 minutes of one core, both being busy

# Flags by row. Where an update costs more or less, the number of steps keeps the time the same.
ROWS = {
    "recipe": "",
    "absolute_actions": "--env.action-mode absolute --env.action-frame board",
    "board_frame": "--env.action-frame board "
    "--env.features agent_pos agent_vel block_pos block_rotation agent_in_block_frame goal_error",
    "no_mirror": "--env.no-mirror",
    "stock_reward": "--env.reward stock --env.success-bonus 0",
    "linear_reward": "--env.reward linear",
    "progress_reward": "--env.reward progress",
    "no_curriculum": "--env.curriculum 0",
    "no_fourier_features": "--env.features agent_pos block_pos block_rotation agent_in_block_frame "
    "agent_vel_in_block_frame goal_in_block_frame goal_error",
    "no_goal_features": "--env.features agent_pos block_pos block_rotation agent_in_block_frame "
    "agent_fourier_in_block_frame agent_vel_in_block_frame",
    "no_velocity": "--env.features agent_pos block_pos block_rotation agent_in_block_frame "
    "agent_fourier_in_block_frame goal_in_block_frame goal_error",
    "one_step_returns": "--agent.n-step 1",
    "action_repeat_2": "--env.action-repeat 2 --agent.gamma 0.96",
    "falling_entropy": "--agent.final-target-entropy -8",
    "no_greedy_envs": "--training.greedy-share 0",
    "four_times_utd": "--training.utd 0.125 --total-env-steps 850_000",
    "hidden_256": "--agent.hidden-sizes 256 256 --total-env-steps 1_600_000",
}


def main(rows: tuple[Literal[*ROWS], ...] = tuple(ROWS), jobs: int = 2, seed: int = 1) -> None:
    """Train and measure.

    Args:
        rows: names of the rows to run.
        jobs: rows at a time, one core each.
        seed: of the trainings.
    """
    if jobs < 1:
        raise UserError(f"jobs must be at least 1, got {jobs}")
    LOGS.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(jobs) as pool:
        failed = [name for name in pool.map(lambda row: run(row, seed), rows) if name]
    print_table()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the logs in {LOGS}")


def run(row: str, seed: int) -> str | None:
    """Train a row and evaluate its best checkpoint; returns its name if either failed."""
    name = f"{row}_seed{seed}"
    train = f"{train_command(row, seed)} --logs {LOGS} --run-name {name}"
    play = f"evaluate.py --policy {LOGS / name} --episodes 500 --json {LOGS / name}.json"
    with (LOGS / f"{name}.log").open("a") as log:
        for command in (train, play):
            one_core = os.environ | {"OMP_NUM_THREADS": "1"}
            done = subprocess.run(
                [sys.executable, *shlex.split(command)], stdout=log, stderr=log, env=one_core
            )
            if done.returncode:  # of a training that was stopped, too
                return name
    return None


def train_command(row: str, seed: int) -> str:
    return " ".join(f"train_sac.py {BASE} {ROWS[row]} --seed {seed}".split())


def print_table() -> None:
    print("| changed | success on 500 seeds | steps to success | mean max coverage | command |")
    print("|---|---|---|---|---|")
    for row in ROWS:
        for file in sorted(LOGS.glob(f"{row}_seed*.json")):
            numbers, seed = load_json(file), int(file.stem.rpartition("_seed")[2])
            low, high = (100 * bound for bound in numbers["success_ci95"])
            steps = numbers["mean_steps_to_success"]
            print(
                f"| {row.replace('_', ' ')} "
                f"| {numbers['pc_success']:.1f} % ({low:.1f} to {high:.1f}) "
                f"| {'-' if steps is None else f'{steps:.0f}'} | {numbers['mean_max_coverage']:.3f} "
                f"| `python {train_command(row, seed)}` |"
            )


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
