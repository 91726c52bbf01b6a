"""Detours beside a loop over environments, and against the shares that they promise."""

import numpy as np

from sac.exploration import OFFSET_DECISIONS, OFFSET_RATE, OFFSET_STD, Detours


def test_an_offset_holds_for_its_time_and_only_where_it_may():
    rng = np.random.default_rng(0)
    detours = Detours(num_envs=40, action_size=2, count=30, rng=np.random.default_rng(1))
    added = []
    for _ in range(2000):
        actions = rng.uniform(-0.1, 0.1, (40, 2)).astype(np.float32)
        led_astray = detours(actions)
        assert led_astray.dtype == np.float32 and np.abs(led_astray).max() <= 1.0
        np.testing.assert_array_equal(led_astray[:10], actions[:10])
        added.append(np.where(np.abs(led_astray) == 1.0, np.nan, led_astray - actions)[10:])
    added = np.array(added)  # (2000, 30, 2), NaN where the action space ended

    lengths, offsets, off = [], [], 0
    for env in range(30):
        steps = added[:, env]
        away = np.isnan(steps).any(axis=1) | (np.abs(steps) > 1e-6).any(axis=1)
        off += (~away).sum()
        for run in np.split(np.arange(2000), np.flatnonzero(np.diff(away)) + 1)[1:-1]:
            inside = steps[run][~np.isnan(steps[run]).any(axis=1)]
            if away[run[0]] and len(inside) == len(run):
                changes = np.flatnonzero((np.abs(np.diff(inside, axis=0)) > 1e-5).any(axis=1)) + 1
                for piece in np.split(inside, changes):  # a detour may begin where another ends
                    lengths.append(len(piece))
                    offsets.append(piece[0])
    assert min(lengths) == OFFSET_DECISIONS[0] and max(lengths) == OFFSET_DECISIONS[1] - 1
    assert abs(np.std(offsets) / OFFSET_STD - 1) < 0.1  # those cut off at 1 are missing here
    mean_length = (sum(OFFSET_DECISIONS) - 1) / 2
    expected_off = (1 / OFFSET_RATE - 1) / (1 / OFFSET_RATE - 1 + mean_length)
    assert abs(off / added[..., 0].size - expected_off) < 0.02


def test_a_restored_state_goes_on_alike():
    actions = np.zeros((8, 2), np.float32)
    first = Detours(8, 2, 8, np.random.default_rng(0))
    for _ in range(50):
        first(actions)
    second = Detours(8, 2, 8, np.random.default_rng(99))
    second.load_state_dict(first.state_dict())
    second.rng.bit_generator.state = first.rng.bit_generator.state
    for _ in range(50):
        np.testing.assert_array_equal(second(actions), first(actions))
