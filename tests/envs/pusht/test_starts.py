"""Starts by seed are those that gym-pusht draws."""

import numpy as np
import pytest
from gym_pusht.envs.pusht import PushTEnv as StockPushTEnv

from envs.pusht.starts import starts
from envs.pusht.vector import PushTVectorEnv, StockPushTVectorEnv

REJECTED = 1_409_503  # its second number is drawn twice: the first would make some starts too likely


class DrawsOnly(StockPushTEnv):
    """Keeps the start that a reset has drawn, and simulates nothing."""

    def _setup(self):
        pass

    def _set_state(self, state):
        self.drawn = state

    def get_obs(self):
        pass

    def _get_info(self):
        return {}


def drawn_by_stock(seeds):
    env = DrawsOnly()
    drawn = []
    for seed in seeds:
        env.reset(seed=int(seed))
        drawn.append(env.drawn)
    return np.array(drawn)


def test_starts_are_drawn_as_by_the_stock_environment():
    anywhere = np.random.default_rng(0).integers(0, 2**63 - 1, 1_000)
    seeds = np.concatenate([np.arange(1_000), anywhere, [REJECTED, 2**32 - 1, 2**32, 2**63 - 1]])
    seeds = [*seeds.tolist(), 2**63, 2**64 - 1, np.uint64(2**53 + 1)]
    np.testing.assert_array_equal(starts(seeds), drawn_by_stock(seeds))


def test_episodes_of_seeds_and_of_states_begin_side_by_side():
    states = np.full((4, 5), np.nan)
    states[2] = 100.0, 120.0, 250.0, 260.0, 0.5
    options = {"states": states, "reset_mask": np.array([True, False, True, True])}
    raws = [
        env(4).reset(seed=[7, 8, 9, REJECTED], options=options)[0]
        for env in (PushTVectorEnv, StockPushTVectorEnv)
    ]
    np.testing.assert_array_equal(raws[0]["block_pose"][[0, 3]], raws[1]["block_pose"][[0, 3]])
    np.testing.assert_allclose(raws[0]["block_pose"][2], states[2, 2:], atol=1e-9)


@pytest.mark.parametrize("seed", [-1, 1.5, None, float("nan"), 2**64])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match="seeds must be integers from 0 to 2\\^64 - 1, got"):
        starts([3, seed])
    options = {"reset_mask": np.array([True, False])}
    PushTVectorEnv(2).reset(seed=[3, seed], options=options)  # only those in the mask are read
