"""The numbers we quote, against arithmetic by hand and published intervals."""

import json
from math import sqrt

import numpy as np
import pytest

from envs.interfaces import Episode
from envs.pendulum import Pendulum
from envs.pusht.task import PushT
from envs.summary import line, scalars, table, wilson_interval


def episode(targets, rewards, coverage, success):
    return Episode(
        0, {}, np.array(targets, float), np.array(rewards, float), np.array(coverage, float), success
    )


SOLVED = episode([(0, 0), (3, 4), (3, 4)], [0.2, 0.6, 1.0], [0.1, 0.19, 0.57, 0.97], True)
MISSED = episode([(10, 10), (10, 22)], [0.8, 0.4], [0.9, 0.76, 0.38], False)


def test_every_number_by_hand():
    assert PushT().summarize([SOLVED, MISSED]) == {
        "episodes": 2,
        "success_rate": 0.5,
        "success_ci95": list(wilson_interval(1, 2)),
        "pc_success": 50.0,
        "avg_max_reward": pytest.approx((1.0 + 0.8) / 2),
        "avg_sum_reward": pytest.approx((1.8 + 1.2) / 2),
        "mean_max_coverage": pytest.approx((0.97 + 0.76) / 2),  # 0.9 was the start
        "mean_steps_to_success": 3.0,
        "action_step_mean": pytest.approx((5 + 0 + 12) / 3),
        "action_step_p99": pytest.approx(5 + 0.98 * (12 - 5)),  # of 0, 5, 12: 98 % of the way from 5 to 12
    }


def test_what_is_not_there_is_none():
    numbers = PushT().summarize([episode([(1, 2)], [0.5], [0.0, 0.475], False)])
    assert numbers["mean_steps_to_success"] is None
    assert numbers["action_step_mean"] is None and numbers["action_step_p99"] is None


def test_a_training_logs_them_under_these_names():
    numbers = PushT().summarize([SOLVED, MISSED])
    named = {
        "Eval/success_rate": 0.5,
        "Eval/max_coverage": numbers["mean_max_coverage"],
        "Eval/return": numbers["avg_sum_reward"],
        "Eval/action_step_mean": numbers["action_step_mean"],
        "Eval/action_step_p99": numbers["action_step_p99"],
    }
    assert scalars(PushT(), numbers) == named | {"Eval/steps_to_success": 3.0}
    assert scalars(PushT(), numbers | {"mean_steps_to_success": None}) == named


def test_people_read_them_with_units_and_interval():
    numbers = PushT().summarize([SOLVED, MISSED])
    rows = table(PushT(), numbers)
    low, high = wilson_interval(1, 2)
    assert rows["success rate"] == f"50.0 % (95 % interval {100 * low:.1f} to {100 * high:.1f})"
    assert (rows["max coverage"], rows["action step mean"], rows["return"]) == ("0.865", "5.7 px", "1.5")
    brief = "success rate 50.0 %, steps to success 3.0, max coverage 0.865, action step mean 5.7 px"
    assert line(PushT(), numbers) == brief
    assert line(PushT(), numbers | {"mean_steps_to_success": None}) == brief.replace("3.0", "-")


def test_a_task_without_success_has_none():
    swing = Episode(0, {}, np.zeros((2, 1)), np.array([-3.0, -1.0]))
    numbers = Pendulum().summarize([swing, swing])
    assert numbers == {"episodes": 2, "avg_max_reward": -1.0, "avg_sum_reward": -4.0}
    assert scalars(Pendulum(), numbers) == {"Eval/return": -4.0}
    assert line(Pendulum(), numbers) == "return -4.0"


def test_the_best_succeeds_most_often_then_fastest_then_covers_most():
    found = [(0.0, None, 0.5), (0.0, None, 0.6), (0.9, 20.0, 0.5), (1.0, 31.0, 0.9), (1.0, 29.0, 0.8)]
    keys = "success_rate", "mean_steps_to_success", "mean_max_coverage"
    ranks = [PushT().rank(dict(zip(keys, values, strict=True))) for values in found]
    assert ranks == sorted(ranks) and len(set(ranks)) == len(ranks)


def test_json_holds_it():
    numbers = PushT().summarize([SOLVED, MISSED])
    assert json.loads(json.dumps(numbers)) == numbers


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilson_as_published(successes, trials, low, high):
    """Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3."""
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (1, 1), (3, 7), (491, 500), (1000, 1000)])
def test_wilson_bounds_are_where_the_score_test_turns(successes, trials):
    """By definition: the outermost p from which the observed share is at most 1.96 standard errors away."""
    grid = np.linspace(0, 1, 1_000_001)
    away = np.abs(successes / trials - grid) / np.sqrt(grid * (1 - grid) / trials + 1e-300)
    not_ruled_out = grid[away <= 1.959964]
    low, high = wilson_interval(successes, trials)
    assert (low, high) == pytest.approx((not_ruled_out[0], not_ruled_out[-1]), abs=2e-6)
    assert 0 <= low <= successes / trials <= high <= 1


def test_wilson_narrows_with_trials_and_widens_with_confidence():
    low, high = wilson_interval(5000, 10000)
    assert high - low == pytest.approx(2 * 1.96 * sqrt(0.25 / 10000), rel=1e-3)
    assert wilson_interval(5, 10, 0.99)[0] < wilson_interval(5, 10, 0.95)[0]
