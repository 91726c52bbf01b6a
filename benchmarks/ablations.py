"""What matters in a recipe: the same training with one choice changed, a row each.

    python benchmarks/ablations.py                                          SAC, all rows, two at a time
    python benchmarks/ablations.py --rows stock_reward no_curriculum --jobs 1
    python benchmarks/ablations.py --of steering                            of a frozen policy in its noise
    python benchmarks/ablations.py --of car_racing                          of a driver from pictures

A row is a training whose command stands in the table; an interrupted one resumes. Its figure is the success
of its best checkpoint, deterministic, on 500 held-out seeds, and that of its mode alone; a driver's are the
return and the laps of its last checkpoint on 100 held-out tracks in our renderer. Prints a Markdown table of
all rows in `logs/ablations/`, which also has each training's log and its numbers as JSON. The policy that is
steered has to be there: `python train_act.py --config configs/flow_pusht_human.yaml`.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from benchmarks import rows as table
from common.errors import UserError, report_user_errors
from common.untrusted import load_json

LOGS = Path("logs/ablations")
MODE_ALONE = "_mode_alone.json"


@dataclass(frozen=True)
class Recipe:
    """A training, what its rows change, and what is measured of them."""

    flags: str  # of train_sac.py, of every row
    rows: dict[str, str]  # those that a row changes, by its name
    columns: table.Columns
    checkpoint: str = "best"
    episodes: int = 500


# Where an update costs more or less, the number of steps keeps the time the same.
PUSHT = {
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
    "constant_entropy": "--agent.final-target-entropy -2",
    "no_greedy_envs": "--training.greedy-share 0",
    "four_times_utd": "--training.utd 0.05 --total-env-steps 600_000",
    "hidden_256": "--agent.hidden-sizes 256 256 --total-env-steps 1_000_000",
}
STEERING = {
    "recipe": "",
    "noise_of_played_steps": "--steering.noise executed",
    "all_noise": "--steering.noise full",
    "repeated_noise": "--steering.noise repeated",
    "rank_1": "--steering.rank 1",
    "rank_3": "--steering.rank 3",
    "bound_1": "--steering.bound 1",
    "bound_3": "--steering.bound 3",
    "2_steps_of_a_chunk": "--steering.n-action-steps 2",
    "8_steps_of_a_chunk": "--steering.n-action-steps 8",
    "16_steps_of_a_chunk": "--steering.n-action-steps 16",
    "no_mirror": "--env.no-mirror --steering.no-symmetric",
    "no_curriculum": "--env.curriculum 0",
    "prefill_of_5000": "--training.start-steps 5_000",
    "quarter_of_utd": "--training.utd 0.1",
    "twice_the_utd": "--training.utd 0.8",
    "five_critics": "--agent.num-critics 5 --agent.target-subset 2",
    "no_layer_norm": "--agent.no-critic-layer-norm",
    "hidden_256": "--agent.hidden-sizes 256 256",
    "gamma_0.98": "--agent.gamma 0.98",
    "gamma_0.99_per_decision": "--agent.gamma 0.9975",  # to the power of its 4 steps
    "critics_of_executed_actions": "--agent.noise-aliasing --training.utd 0.1 "
    "--env.no-mirror --steering.no-symmetric",
}
CAR_RACING = {
    "recipe": "",
    "no_mirror": "--env.no-mirror",
    "no_road_contrast": "--env.no-road-contrast",
    "no_starts_off_the_road": "--env.off-road-starts 0",
    "no_penalty_for_missed_tiles": "--env.missed-penalty 0",
    "no_reward_for_a_lap": "--env.lap-reward 0",
    "all_gas": "--env.gas 1",
    "all_brake": "--env.brake 1",
    "no_detours": "--training.detour-share 0",
    "no_shift": "--agent.encoder.shift 0",
    "constant_entropy": "--agent.final-target-entropy -2",
}
CAR_RACING_COLUMNS = {
    "return": lambda numbers: f"{numbers['avg_sum_reward']:.0f}",
    "laps": table.success,
    "track visited": lambda numbers: f"{100 * numbers['mean_progress']:.1f} %",
}
RECIPES = {
    # about 6 minutes of one core a row, both being busy
    "pusht": Recipe("--device cpu", PUSHT, table.PUSHT_COLUMNS),
    "steering": Recipe(
        "--config configs/steer_pusht_human_short.yaml --device cpu --steer-anyway",
        STEERING,
        table.PUSHT_COLUMNS,
    ),
    # about a quarter of an hour, the same
    "car_racing": Recipe(
        "--config configs/sac_car_racing.yaml --device cpu --total-env-steps 100_000",
        CAR_RACING,
        CAR_RACING_COLUMNS,
        checkpoint="last",  # which of them is the best on 20 tracks is mostly chance
        episodes=100,
    ),
}


def main(
    of: Literal["pusht", "steering", "car_racing"] = "pusht",
    rows: tuple[str, ...] = (),
    jobs: int = 2,
    seed: int = 1,
) -> None:
    """Train and measure.

    Args:
        of: recipe that is changed.
        rows: names of the rows to run; none: all.
        jobs: rows at a time, one core each.
        seed: of the trainings.
    """
    if strange := [row for row in rows if row not in RECIPES[of].rows]:
        raise UserError(f"rows of {of} are {', '.join(RECIPES[of].rows)}, got {strange[0]}")
    (LOGS / of).mkdir(parents=True, exist_ok=True)
    failed = table.run_rows(lambda row: run(of, row, seed), rows or RECIPES[of].rows, jobs)
    print_table(of)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the logs in {LOGS / of}")


def run(of: str, row: str, seed: int) -> bool:
    """Train a row and evaluate its checkpoint; returns whether both succeeded."""
    recipe, name, folder = RECIPES[of], f"{row}_seed{seed}", LOGS / of
    train = f"{train_command(of, row, seed)} --logs {folder} --run-name {name}"
    policy = folder / name / "checkpoints" / recipe.checkpoint
    play = f"evaluate.py --policy {policy} --episodes {recipe.episodes} --json {folder / name}"
    alone = f"{play}{MODE_ALONE} --no-escape"
    return table.run_commands((train, f"{play}.json", alone), folder / f"{name}.log")


def train_command(of: str, row: str, seed: int) -> str:
    recipe = RECIPES[of]
    return " ".join(f"train_sac.py {recipe.flags} {recipe.rows[row]} --seed {seed}".split())


def print_table(of: str) -> None:
    recipe = RECIPES[of]
    print(table.header(recipe.columns, "mode alone", "command"))
    for row in recipe.rows:
        for file in sorted((LOGS / of).glob(f"{row}_seed*{MODE_ALONE}")):
            name = file.name.removesuffix(MODE_ALONE)
            command = f"`python {train_command(of, row, int(name.rpartition('_seed')[2]))}`"
            numbers, alone = load_json(file.with_name(f"{name}.json")), table.success(load_json(file))
            print(table.row(row, recipe.columns, numbers, alone, command))


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
