"""The shipped experts: what lies beside their weights is true of them, whichever weights those are."""

import shlex
from math import sqrt

import numpy as np
import pytest

import evaluate
import train_sac
from common.config import from_dict, load_yaml, parse
from common.untrusted import load_json
from envs.pusht.vector import PushTVectorEnv, StockPushTVectorEnv
from envs.rollout import rollout
from envs.summary import wilson_interval
from envs.tasks import with_task
from policies import ASSETS, load_policy
from tests.runs import metrics


@pytest.fixture(scope="module", params=["sac_expert", "sac_expert_fast"])
def expert(request):
    return ASSETS / request.param


def test_it_plays_in_the_stock_environment_as_its_evaluation_says(expert):
    told = load_json(expert / "evaluation.json")
    first, _ = told["seeds"]
    episodes = list(rollout(StockPushTVectorEnv(10), load_policy(expert), range(first, first + 10)))
    steps = [len(episode) for episode in episodes if episode.success]
    assert len(steps) >= 9  # a policy that succeeds at 99 % fails more often on 0.4 % of such tens
    assert 10 - len(steps) <= round(told["episodes"] * (1 - told["success_rate"]))
    standard_error = np.std(steps, ddof=1) / sqrt(len(steps))
    assert abs(np.mean(steps) - told["mean_steps_to_success"]) < 5 * standard_error


def test_its_evaluation_is_the_one_that_we_quote(expert):
    """In the environment as published, over seeds that chose nothing; and its command asks for that."""
    told = load_json(expert / "evaluation.json")
    first, last = told["seeds"]
    assert (told["episodes"], told["env"], told["sampled"]) == (1000, "stock", False)
    assert first >= 100_000 and last - first == 999  # trainings choose their best below
    successes = round(1000 * told["success_rate"])
    assert successes >= 990 and told["success_rate"] == successes / 1000
    assert told["success_ci95"] == pytest.approx(wilson_interval(successes, 1000))
    assert told["policy"] == f"assets/{expert.name}"

    python, script, *flags = shlex.split(told["command"])
    asked = parse(evaluate.Config, flags)
    assert (python, script) == ("python", "evaluate.py")
    assert (asked.policy, asked.env, asked.episodes) == (told["policy"], "stock", 1000)
    assert (asked.seed, asked.sampled) == (first, False)
    assert not [word for word in flags if word.startswith(("/", "~"))]  # nothing of one machine


@pytest.mark.slow
def test_its_configuration_and_curve_are_those_of_its_training(expert):
    """The evaluation that chose it is played again, and stands in the curve."""
    config = from_dict(with_task(train_sac.Config, "pusht"), load_yaml(expert / "config.yaml"))
    policy, trained = load_policy(expert), load_json(expert / "config.json")["trained"]
    assert policy.task.features == config.env.features
    assert policy.task.decoder() == config.env.decoder()
    assert trained["env_steps"] <= config.total_env_steps

    first, count = config.training.eval_seed, config.training.eval_episodes
    numbers = policy.task.summarize(list(rollout(PushTVectorEnv(100), policy, range(first, first + count))))
    chosen = trained["evaluation"]
    assert chosen["success_rate"] == pytest.approx(numbers["success_rate"], abs=0.01)
    assert chosen["mean_steps_to_success"] == pytest.approx(numbers["mean_steps_to_success"], rel=0.02)
    (row,) = (
        row
        for row in metrics(expert)
        if row["Eval/success_rate"] and int(row["step"]) == trained["env_steps"]
    )
    assert float(row["Eval/success_rate"]) == pytest.approx(chosen["success_rate"], rel=1e-5)
    assert float(row["Eval/steps_to_success"]) == pytest.approx(chosen["mean_steps_to_success"], rel=1e-5)
