"""Histories against lists of each slot's observations."""

import numpy as np

from envs.history import History


def test_a_history_is_the_latest_observations_of_each_episode():
    rng, history = np.random.default_rng(0), History(3)
    seen: list[list[tuple[np.ndarray, np.ndarray]]] = [[] for _ in range(4)]
    for step in range(60):
        begins = np.ones(4, bool) if step == 0 else rng.random(4) < 0.15
        moved = rng.random(4) < 0.7
        raw = {"place": rng.normal(size=(4, 2)), "picture": rng.integers(0, 9, (4, 2, 2, 3), np.uint8)}
        held = history.add(raw, begins, moved)
        for slot in range(4):
            if begins[slot]:
                seen[slot].clear()
            if begins[slot] or moved[slot]:
                seen[slot].append((raw["place"][slot], raw["picture"][slot]))
            padded = [seen[slot][0]] * 2 + seen[slot]
            places, pictures = zip(*padded[-3:], strict=True)
            np.testing.assert_array_equal(held["place"][slot], places)
            np.testing.assert_array_equal(held["picture"][slot], pictures)
    assert held["picture"].dtype == np.uint8
