"""What moves ACT's success: the recipe with one choice changed, a row each.

    python benchmarks/act_ablations.py                                     all rows, two at a time
    python benchmarks/act_ablations.py --rows recipe "50 episodes" --jobs 1

A row is three commands: collect_dataset.py, train_act.py, and evaluate.py on 500 held-out seeds. Rows share
datasets and trainings where their flags allow it; an interrupted row resumes. Prints a Markdown table of all
rows in `logs/act_ablations/`, which also has each training's log and its numbers as JSON.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from benchmarks import rows as table
from common.errors import report_user_errors
from common.untrusted import load_json

LOGS = Path("logs/act_ablations")
COLLECT = "collect_dataset.py"  # by default 2,000 of the shipped expert's successes, held for 10 steps
# A third of the recipe's length, and no choice among checkpoints: the last one is measured.
TRAIN = (
    "train_act.py --threads 1 --device cpu --steps 6000 --training.eval-every 0 --training.keep-every 1000"
)
PLAY = "evaluate.py --episodes 500"


@dataclass(frozen=True)
class Row:
    """Flags that come after those of the recipe, by script."""

    collect: str = ""
    train: str = ""
    play: str = ""


ROWS = {
    "recipe": Row(),
    "no held end": Row(collect="--hold 0"),
    "fast expert": Row(collect="--policy assets/sac_expert_fast"),
    "50 episodes": Row(collect="--episodes 50"),
    "200 episodes": Row(collect="--episodes 200"),
    "200 episodes, mirrored": Row(collect="--episodes 200", train="--dataset.mirror"),
    "1000 episodes": Row(collect="--episodes 1000"),
    "noise of 5 px": Row(collect="--noise 5"),
    "noise of 10 px": Row(collect="--noise 10"),
    "noise of 10 px, no held end": Row(collect="--noise 10 --hold 0"),
    "chunk of 4": Row(train="--policy.chunk-size 4"),
    "chunk of 16": Row(train="--policy.chunk-size 16"),
    "1 decoder layer": Row(train="--policy.n-decoder-layers 1"),
    "no average of the weights": Row(train="--optimizer.ema 0"),
    "latent": Row(train="--policy.use-vae"),
    "constant learning rate": Row(train="--optimizer.schedule constant"),
    "1 action step": Row(play="--n-action-steps 1"),
    "2 action steps": Row(play="--n-action-steps 2"),
    "8 action steps": Row(play="--n-action-steps 8"),
    "temporal ensembling": Row(play="--temporal-ensemble-coeff 0.01"),
}


def main(rows: tuple[Literal[*ROWS], ...] = tuple(ROWS), jobs: int = 2) -> None:
    """Record, train and measure.

    Args:
        rows: names of the rows to run.
        jobs: commands at a time, one core each.
    """
    LOGS.mkdir(parents=True, exist_ok=True)
    for command in (collect, train, play):
        run_all(command, rows, jobs)
    print_table()


def run_all(command: Callable[[str], tuple[str, str]], rows: tuple[str, ...], jobs: int) -> None:
    """Run one of the three commands of each row, once where rows share it."""
    commands = dict(command(row) for row in rows)
    failed = table.run_rows(
        lambda name: table.run_commands((commands[name],), LOGS / f"{name}.log"), commands, jobs
    )
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; see the logs in {LOGS}")


def first_alike(row: str, *scripts: str) -> str:
    """The first row that gives these scripts the same flags."""
    flags = [getattr(ROWS[row], script) for script in scripts]
    alike = next(name for name in ROWS if [getattr(ROWS[name], script) for script in scripts] == flags)
    return alike.replace(",", "").replace(" ", "_")


def collect(row: str) -> tuple[str, str]:
    """The name of a row's dataset, and the command that records it or goes on with it."""
    name = f"data_{first_alike(row, 'collect')}"
    root = LOGS / name
    return name, f"{COLLECT} {ROWS[row].collect} --root {root} --resume"


def train(row: str) -> tuple[str, str]:
    """The name of a row's training, and the command that begins it or goes on with it."""
    name = first_alike(row, "collect", "train")
    data = LOGS / collect(row)[0]
    return name, f"{TRAIN} {ROWS[row].train} --dataset.root {data} --logs {LOGS} --run-name {name}"


def play(row: str) -> tuple[str, str]:
    """The name of a row's numbers, and the command that measures them."""
    name = f"played_{first_alike(row, 'collect', 'train', 'play')}"
    return name, f"{PLAY} {ROWS[row].play} --policy {LOGS / train(row)[0]} --json {LOGS / name}.json"


def print_table() -> None:
    print(table.header(table.PUSHT_COLUMNS, "flags"))
    for row, changed in ROWS.items():
        file = LOGS / f"{play(row)[0]}.json"
        if file.exists():
            flags = " ".join([changed.collect, changed.train, changed.play]).strip()
            print(table.row(row, table.PUSHT_COLUMNS, load_json(file), f"`{flags}`" if flags else ""))


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
