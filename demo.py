"""The whole repository in a few minutes: train an expert, measure it, record a dataset, clone it with ACT.

make demo
"""

import common.start  # noqa: F401  before all other imports

# isort: split

import json
import os
import sys
from pathlib import Path

import collect_dataset
import evaluate
import train_act
import train_sac
from common.errors import UserError, report_user_errors
from common.paths import LOGS
from common.video import write_gif
from envs.films import mosaic
from envs.rollout import rollout
from policies import EXPERT, load_policy, task_of

TRAINED = LOGS / "demo"
SHIPPED = Path(os.path.relpath(EXPERT))
CLONE = LOGS / "demo_act"
DATASET = Path("data/demo")
TOGETHER = LOGS / "expert_and_clone.gif"
SEEDS = range(100_000, 100_003)  # that both are filmed on


def measure(policy: Path, output: Path) -> dict:
    """Evaluate in the unmodified environment, with videos; returns the numbers."""
    numbers = output / "evaluation.json"
    where = f"--policy {policy} --output {output} --json {numbers}"
    evaluate.main(f"{where} --env stock --episodes 100 --record --videos 3".split())
    return json.loads(numbers.read_text())


def film(path: Path, *policies: Path) -> None:
    """The same starts played by each policy, one row each."""
    task = task_of(policies[0])
    env = task.vector_env(len(SEEDS))
    rows = [list(rollout(env, load_policy(policy), SEEDS, frame_size=192)) for policy in policies]
    episodes = [episode for row in rows for episode in sorted(row, key=lambda e: e.seed)]
    write_gif(path, mosaic(episodes), task.fps)


def main() -> bool:
    """Returns whether it finished. Ctrl-C stops a training; the same command resumes it."""
    print("1. Train an expert from scratch, for a few minutes.\n")
    if not train_sac.main(f"--config configs/demo.yaml --run-name {TRAINED.name} --logs {LOGS}".split()):
        return False

    print("\n2. Play it, and the shipped expert, in gym_pusht/PushT-v0 as published.\n")
    results = {
        "trained just now": measure(TRAINED, TRAINED),
        "shipped expert": measure(SHIPPED, LOGS / "shipped_expert"),
    }

    print("\n3. Record 400 disturbed episodes of the shipped expert for imitation learners.\n")
    record = f"--policy {SHIPPED} --root {DATASET} --observations keypoints --hold 10 --noise 10"
    if not collect_dataset.main(f"{record} --episodes 400 --overwrite".split()):
        return False

    print("\n4. Train a small ACT on them, and play it.\n")
    if not train_act.main(f"--config configs/act_demo.yaml --run-name {CLONE.name} --logs {LOGS}".split()):
        return False
    results["its clone"] = measure(CLONE, CLONE)
    film(TOGETHER, SHIPPED, CLONE)

    print(f"\n{'':<18}{'success':>10}{'steps to success':>19}{'max coverage':>15}{'target moves':>15}")
    for name, numbers in results.items():
        steps = numbers["mean_steps_to_success"]
        print(
            f"{name:<18}{numbers['pc_success']:>8.1f} %{'-' if steps is None else f'{steps:.1f}':>19}"
            f"{numbers['mean_max_coverage']:>15.3f}{numbers['action_step_mean']:>12.1f} px"
        )
    print(
        f"\nvideos    {TOGETHER}: the shipped expert above its clone"
        f"\n          {TRAINED}/videos, {LOGS}/shipped_expert/videos, {CLONE}/videos"
        f"\nplots     {TRAINED}/plots, {LOGS}/shipped_expert/plots, {CLONE}/plots"
        f"\ndataset   {DATASET}/README.md"
        f"\ncurves    .venv/bin/tensorboard --logdir {LOGS}"
        "\nnext      .venv/bin/python train_sac.py (the full expert), README.md"
    )
    return True


if __name__ == "__main__":
    with report_user_errors():
        if sys.argv[1:]:
            raise UserError(f"demo.py has no settings, got {sys.argv[1]}; the scripts that it runs have")
        finished = main()
    sys.exit(0 if finished else 1)
