"""Steerability against a policy and successes that are known."""

import numpy as np
import pytest

from common.errors import UserError
from envs.interfaces import Episode, Steerable
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from envs.steerability import check_authority, check_headroom, spreads, successes, table, trial
from tests.act.tiny import player_of
from tests.act.tiny_flow import make


class Follower:
    """Goes where its observation is, and as far from there as its noise says."""

    n_action_steps, chunk_size, image_size, noise_shape, sampled = 1, 3, 0, (3, 2), False
    history, sees = 1, ("place",)

    def __init__(self, gain: float) -> None:
        self.gain = gain

    def seed_slots(self, seeds):
        pass

    def reset(self, slots):
        pass

    def act(self, observations):
        return observations["place"]

    def chunk(self, observations, noise):
        return observations["place"][:, None] + self.gain * noise

    def inputs(self, observations):
        return observations["place"]

    def chunk_of(self, inputs, noise):
        return inputs[:, None] + self.gain * noise


PLACES = {"place": np.random.default_rng(1).normal(100.0, 30.0, (400, 2))}


def test_spreads_are_what_noise_and_states_do():
    policy = Follower(gain=6.0)
    assert isinstance(policy, Steerable)
    numbers = spreads(policy, PLACES, np.random.default_rng(0))
    assert numbers["noise_spread"] == pytest.approx(6.0, rel=0.06)  # of 16 draws the deviation is 3 % small
    assert numbers["state_spread"] == pytest.approx(30.0, rel=0.06)
    assert numbers["authority"] == numbers["noise_spread"] / numbers["state_spread"]
    check_authority(numbers, "policy")


def test_noise_without_effect_is_refused_with_the_figures():
    numbers = spreads(Follower(gain=0.03), PLACES, np.random.default_rng(0))
    with pytest.raises(
        UserError, match=r"p: cannot be steered: .* by 0.02\d+ and states by .* of 0.00\d+, and"
    ):
        check_authority(numbers, "p")


def test_the_best_of_k_draws_solves_what_any_of_them_solves():
    policy, rng = Follower(1.0), np.random.default_rng(3)
    outcomes, sampled = rng.random((6, 20)) < 0.3, []

    def play():
        sampled.append(policy.sampled)
        nothing = np.empty(0)
        return [
            Episode(i, {}, nothing, nothing, success=bool(s))
            for i, s in enumerate(outcomes[len(sampled) - 1])
        ]

    numbers = successes(policy, play, best_of=5)
    assert sampled == [False, *[True] * 5] and policy.sampled is False
    solved = [{i for i in range(20) if draw[i]} for draw in outcomes]
    assert numbers["success_rate"] == len(solved[0]) / 20
    assert numbers["sampled_success_rate"] == pytest.approx(sum(map(len, solved[1:])) / 100)
    assert numbers["best_of"] == [len(set().union(*solved[1 : k + 1])) / 20 for k in range(1, 6)]
    rows = table(numbers | {"noise_spread": 17.7, "state_spread": 110.0, "authority": 0.161})
    assert rows["noise moves"] == "an action by 17.7, states by 110" and rows["authority"] == "0.16"
    assert rows["best of 1 to 5"].endswith(f"{100 * numbers['best_of'][-1]:.1f} %")


@pytest.mark.parametrize(("best", "drawn", "mean"), [(0.0, 0.0, 0.0), (1.0, 0.9, 0.97), (0.5, 0.48, 0.3)])
def test_a_policy_that_noise_does_not_help_is_refused_with_the_figures(best, drawn, mean):
    numbers = {
        "episodes": 32,
        "success_rate": mean,
        "sampled_success_rate": drawn,
        "best_of": [drawn, best],
    }
    words = f"p: steering has nothing to gain: of 32 starts it solves {100 * mean:.0f} % with noise 0, "
    words += f"{100 * drawn:.0f} % with drawn noise, the best of 2 draws {100 * best:.0f} %"
    with pytest.raises(UserError, match=words):
        check_headroom(numbers, "p")
    check_headroom(numbers | {"best_of": [drawn, max(mean, drawn) + 0.06]}, "p")


def test_a_trial_plays_the_seeds_with_noise_0_and_with_four_draws():
    """Against the same episodes in the order of their seeds, from a player that draws the same."""
    players = [player_of(make()) for _ in range(2)]
    env = PushTVectorEnv(32, max_episode_steps=6)
    env.envs[0].success_threshold = 0.05  # of the goal's area: some starts overlap it
    numbers = trial(players[0], env, first_seed=7)
    assert players[0].sampled is False

    solved = []
    for draw in range(5):
        players[1].sampled = draw > 0
        episodes = {episode.seed: episode for episode in rollout(env, players[1], range(7, 39))}
        solved.append([bool(episodes[seed].success) for seed in range(7, 39)])
    assert numbers["success_rate"] == np.mean(solved[0])
    assert numbers["sampled_success_rate"] == np.mean(solved[1:])
    assert numbers["best_of"] == [np.any(solved[1 : k + 1], axis=0).mean() for k in range(1, 5)]
    assert 0 < numbers["success_rate"] < 1 and len({tuple(each) for each in solved}) > 1, "draws differ"


def test_a_trial_stops_after_the_episode_in_which_it_is_asked_to():
    player = player_of(make())
    asked = iter([False] * 40 + [True])
    with pytest.raises(UserError, match="stopped in the trial of steering.policy"):
        trial(player, PushTVectorEnv(32, max_episode_steps=3), first_seed=7, stop=asked.__next__)
    assert next(asked, None) is None and player.sampled is False
