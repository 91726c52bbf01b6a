"""What matters in the recipe: the same training with one choice changed, a row each.

    python benchmarks/ablations.py                                          all rows, two at a time
    python benchmarks/ablations.py --rows stock_reward no_curriculum --jobs 1

A row is a training whose command stands in the table; an interrupted one resumes. Its figure is the success
of its best checkpoint, deterministic, on 500 held-out seeds, and that of its mode alone. Prints a Markdown
table of all rows in `logs/ablations/`, which also has each training's log and its numbers as JSON.
"""

import sys
from pathlib import Path
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from benchmarks import rows as table
from common.errors import report_user_errors
from common.untrusted import load_json

LOGS = Path("logs/ablations")
BASE = "--device cpu"  # about 6 minutes of one core, both being busy
MODE_ALONE = "_mode_alone.json"

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
    "action_repeat_2": "--env.action-repeat 2",
    "falling_entropy": "--agent.final-target-entropy -8",
    "no_greedy_envs": "--training.greedy-share 0",
    "four_times_utd": "--training.utd 0.05 --total-env-steps 600_000",
    "hidden_256": "--agent.hidden-sizes 256 256 --total-env-steps 1_000_000",
}


def main(rows: tuple[Literal[*ROWS], ...] = tuple(ROWS), jobs: int = 2, seed: int = 1) -> None:
    """Train and measure.

    Args:
        rows: names of the rows to run.
        jobs: rows at a time, one core each.
        seed: of the trainings.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    failed = table.run_rows(lambda row: run(row, seed), rows, jobs)
    print_table()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the logs in {LOGS}")


def run(row: str, seed: int) -> bool:
    """Train a row and evaluate its best checkpoint; returns whether both succeeded."""
    name = f"{row}_seed{seed}"
    train = f"{train_command(row, seed)} --logs {LOGS} --run-name {name}"
    play = f"evaluate.py --policy {LOGS / name} --episodes 500 --json {LOGS / name}"
    alone = f"{play}{MODE_ALONE} --no-escape"
    return table.run_commands((train, f"{play}.json", alone), LOGS / f"{name}.log")


def train_command(row: str, seed: int) -> str:
    return " ".join(f"train_sac.py {BASE} {ROWS[row]} --seed {seed}".split())


def print_table() -> None:
    print(table.header("mode alone", "command"))
    for row in ROWS:
        for file in sorted(LOGS.glob(f"{row}_seed*{MODE_ALONE}")):
            name = file.name.removesuffix(MODE_ALONE)
            command = f"`python {train_command(row, int(name.rpartition('_seed')[2]))}`"
            numbers, alone = load_json(LOGS / f"{name}.json"), table.success(load_json(file))
            print(table.row(row, numbers, alone, command))


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
