"""What matters when SAC learns from pictures: Pendulum's training with one choice changed, a row each.

    python benchmarks/pixel_ablations.py                                    12 rows of 5 seeds, two at a time
    python benchmarks/pixel_ablations.py --rows no_shift --seeds 1 --jobs 1

A row is trainings whose command stands in the table; an interrupted one resumes. The figures are those of the
trainings' own evaluations, 20 episodes every 250 environment steps: where each seed is solved, and the mean
return at the end with the 95 % interval of Student's t over the seeds. Prints a Markdown table of all rows in
`logs/pixel_ablations/`, which also has each training's log.
"""

import csv
import math
import sys
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from benchmarks.rows import run_commands, run_rows
from common.errors import report_user_errors

LOGS = Path("logs/pixel_ablations")
BASE_FLAGS = "--config configs/sac_visual_pendulum.yaml --device cpu --threads 1 --training.eval-every 250"
ENV_STEPS = 2_500  # of a training
SOLVED = -200.0  # mean return of an evaluation
T_975 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # Student's t, by the number of seeds

ROWS = {
    "recipe": "",
    "no_shift": "--agent.encoder.shift 0",
    "no_mirror": "--env.no-mirror",
    "two_views": "--agent.encoder.views 2 --agent.encoder.target-views 2",
    "one_step_returns": "--agent.n-step 1",
    "two_pictures": "--env.pixels.stack 2",
    "no_layer_norm": "--agent.no-critic-layer-norm",
    "target_encoder": "--agent.encoder.tau 0.05",
    "reconstruction": "--agent.encoder.reconstruction 1",
    "actor_trains_too": "--agent.encoder.actor-trains",
    "all_losses_train": "--agent.encoder.reconstruction 1 --agent.encoder.actor-trains",
    "autoencoder_alone": "--agent.encoder.reconstruction 1 --agent.encoder.no-critic-trains",
}


def main(
    rows: tuple[Literal[*ROWS], ...] = tuple(ROWS), seeds: Literal[1, 2, 3, 4, 5] = 5, jobs: int = 2
) -> None:
    """Train and print.

    Args:
        rows: names of the rows to run.
        seeds: of each, from 1 on.
        jobs: trainings at a time, one core each.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    names = [f"{row}_seed{seed}" for seed in range(1, seeds + 1) for row in rows]
    failed = run_rows(run, names, jobs)
    print_table()
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the logs in {LOGS}")


def run(name: str) -> bool:
    """Train a row with a seed; returns whether that succeeded."""
    row, _, seed = name.rpartition("_seed")
    train = f"{train_command(row)} --seed {seed} --logs {LOGS} --run-name {name}"
    return run_commands([train], LOGS / f"{name}.log")


def train_command(row: str) -> str:
    return " ".join(f"train_sac.py {BASE_FLAGS} {ROWS[row]}".split())


def returns(folder: Path) -> dict[int, float]:
    """A training's mean returns by environment step; {} where it is not finished."""
    if not (folder / "metrics.csv").exists():
        return {}
    with (folder / "metrics.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("Eval/return")]
    curve = {int(row["step"]): float(row["Eval/return"]) for row in rows}
    return curve if max(curve, default=0) >= ENV_STEPS else {}


def solved_at(curve: dict[int, float]) -> str:
    return next((f"{step:,}" for step, value in curve.items() if value >= SOLVED), "-")


def interval(values: list[float]) -> str:
    """The mean and, of several values, its 95 % interval."""
    if len(values) not in T_975:
        return f"{mean(values):,.0f}"
    half = T_975[len(values)] * stdev(values) / math.sqrt(len(values))
    return f"{mean(values):,.0f} ({mean(values) - half:,.0f} to {mean(values) + half:,.0f})"


def print_table() -> None:
    print("| changed | solved after, by seed | return at the end | command |\n|---|---|---|---|")
    for row in ROWS:
        curves = [returns(log.with_suffix("")) for log in sorted(LOGS.glob(f"{row}_seed*.log"))]
        if curves := [curve for curve in curves if curve]:
            steps = ", ".join(solved_at(curve) for curve in curves)
            ends = interval([list(curve.values())[-1] for curve in curves])
            print(f"| {row.replace('_', ' ')} | {steps} | {ends} | `python {train_command(row)}` |")


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
