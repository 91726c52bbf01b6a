"""The evaluations of a saved state are such as an evaluation makes, or a sentence."""

from types import SimpleNamespace

import pytest

from common.training import check_evaluation
from envs.pusht.task import PushT
from envs.summary import line, scalars

TASK = PushT()
TASKS = SimpleNamespace(
    rank=TASK.rank,
    scalars=lambda numbers: scalars(TASK, numbers),
    line=lambda numbers: line(TASK, numbers),
)
NUMBERS = {
    **{"episodes": 2, "avg_max_reward": 0.5, "avg_sum_reward": -3.0, "success_rate": 0.5, "pc_success": 50.0},
    **{"success_ci95": [0.1, 0.9], "mean_steps_to_success": None, "mean_max_coverage": 0.5, "env_steps": 40},
    **{"action_step_mean": 8.0, "action_step_p99": 12.0},
}


def test_what_an_evaluation_makes_is_accepted():
    check_evaluation(TASKS, NUMBERS, {}, "env_steps", 40)


@pytest.mark.parametrize(
    "change",
    [
        {"success_rate": [0.5]},
        {"success_rate": -0.5},
        {"success_rate": 1.5},
        {"success_rate": True},
        {"success_ci95": [False, True]},
        {"success_rate": None},
        {"success_ci95": 0.5},
        {"action_step_mean": [8.0]},
        {"avg_max_reward": "0.5"},
        {"avg_max_reward": 1e300},
        {"env_steps": 41},
        {"env_steps": True},
    ],
)
@pytest.mark.parametrize("latest", [True, False])
def test_what_none_makes_is_refused(change, latest):
    given = [NUMBERS | change, {}] if latest else [{}, NUMBERS | change]
    with pytest.raises(ValueError, match="evaluation"):
        check_evaluation(TASKS, *given, "env_steps", 40)
