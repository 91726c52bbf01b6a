"""How trainings went, side by side: success, return and steps to success over environment steps.

    python benchmarks/curves.py logs/sac_pusht_seed1 logs/sac_pusht_classic_seed1 --output assets/curves.png

Reads each run's `metrics.csv`. Return and success stand one above the other on purpose: on PushT the one can
be high while the other is zero.
"""

import csv
import itertools
import sys
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1]))  # a script finds what is beside it, not above it

from common.errors import UserError, report_user_errors
from envs.plots import save_figure

COLORS = ("#2f6db5", "#e2711d", "#3a8f5c", "#8b5fbf", "#8d96a3")
PANELS = {
    "Eval/success_rate": ("success (share of episodes)", (-0.02, 1.02)),
    "Eval/return": ("return (stock reward)", (None, None)),
    "Eval/steps_to_success": ("steps to success", (0, None)),
}


def main(
    runs: Annotated[tuple[Path, ...], tyro.conf.Positional], output: Path = Path("logs/curves.png")
) -> None:
    """Draw.

    Args:
        runs: folders of trainings.
        output: PNG to write.
    """
    figure = Figure(figsize=(8, 7), layout="constrained")
    axes = figure.subplots(len(PANELS), 1, sharex=True)
    for run, color in zip(runs, itertools.cycle(COLORS), strict=False):
        try:
            rows = list(csv.DictReader((run / "metrics.csv").read_text().splitlines()))
        except OSError as error:
            raise UserError(f"{run / 'metrics.csv'}: {error.strerror}; give folders of trainings") from None
        if not any(row.get(name) for row in rows for name in PANELS):
            raise UserError(f"{run} has no evaluation yet")
        for panel, name in zip(axes, PANELS, strict=True):
            points = [(int(row["step"]) / 1e6, float(row[name])) for row in rows if row.get(name)]
            panel.plot(*zip(*points, strict=True) if points else ((), ()), color=color, label=run.name)
    for panel, (label, limits) in zip(axes, PANELS.values(), strict=True):
        panel.set(ylabel=label, ylim=limits)
    axes[-1].set(xlabel="environment steps (millions)")
    axes[0].legend(loc="center right", frameon=False)
    save_figure(figure, output)
    print(output)


if __name__ == "__main__":
    with report_user_errors():
        tyro.cli(main, description=__doc__)
