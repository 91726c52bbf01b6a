"""The whole repository in a few minutes: train an expert, measure it and the shipped one, record a dataset.

make demo
"""

import json
import os
from pathlib import Path

import collect_dataset
import evaluate
import train_sac
from policies import EXPERT

LOGS = Path("logs")
TRAINED = LOGS / "demo"
SHIPPED = Path(os.path.relpath(EXPERT))
DATASET = Path("data/demo")


def measure(policy: Path, output: Path) -> dict:
    """Evaluate in the unmodified environment, with videos; returns the numbers."""
    numbers = output / "evaluation.json"
    where = f"--policy {policy} --output {output} --json {numbers}"
    evaluate.main(f"{where} --env stock --episodes 100 --record --videos 3".split())
    return json.loads(numbers.read_text())


def main() -> None:
    print("1. Train an expert from scratch, for a few minutes.\n")
    if not train_sac.main(f"--config configs/demo.yaml --run-name {TRAINED.name} --logs {LOGS}".split()):
        return  # stopped by Ctrl-C; started again, it goes on

    print("\n2. Play it, and the shipped expert, in gym_pusht/PushT-v0 as published.\n")
    results = {
        "trained just now": measure(TRAINED, TRAINED),
        "shipped expert": measure(SHIPPED, LOGS / "shipped_expert"),
    }

    print(f"\n{'':<18}{'success':>10}{'steps to success':>19}{'max coverage':>15}{'target moves':>15}")
    for name, numbers in results.items():
        steps = numbers["mean_steps_to_success"]
        print(
            f"{name:<18}{numbers['pc_success']:>8.1f} %{'-' if steps is None else f'{steps:.1f}':>19}"
            f"{numbers['mean_max_coverage']:>15.3f}{numbers['action_step_mean']:>12.1f} px"
        )
    print("\n3. Record 50 episodes of the shipped expert for imitation learners.\n")
    collect_dataset.main(f"--policy {SHIPPED} --root {DATASET} --episodes 50 --overwrite".split())
    print(
        f"\nvideos    {TRAINED}/videos, {LOGS}/shipped_expert/videos"
        f"\nplots     {TRAINED}/plots, {LOGS}/shipped_expert/plots"
        f"\ndataset   {DATASET}/README.md"
        f"\ncurves    .venv/bin/tensorboard --logdir {LOGS}"
        "\nnext      .venv/bin/python train_sac.py (the full expert), README.md"
    )


if __name__ == "__main__":
    main()
