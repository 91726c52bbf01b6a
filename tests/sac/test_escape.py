import numpy as np
import pytest
import torch

from envs.interfaces import Motion
from envs.pusht.task import PushT
from sac.actor import Actor
from sac.escape import PATIENCE, Escape
from sac.policy import SACPolicy


@pytest.mark.parametrize("repeat", [1, 3])
def test_noise_comes_after_so_many_decisions_without_a_motion(repeat):
    """Slot by slot, counted on the fingers; an episode begins now and then."""
    rng = np.random.default_rng(0)
    escape, steps = Escape(Motion("block", least=1e-3), action_size=2), 150 * repeat
    positions = np.zeros((steps, 3, 2))
    for t in range(1, steps):
        moves = rng.random(3) < (0.0, 0.02 / repeat, 0.5)
        positions[t] = positions[t - 1] + moves[:, None]
    begins = rng.random((steps, 3)) < 0.01 / repeat
    begins[0] = True
    stood, seen = np.zeros(3, int), [positions[0, i] for i in range(3)]
    amounts: dict[int, list[np.ndarray]] = {}
    for t in range(steps):
        decides = np.full(3, t % repeat == 0)
        noise = escape.noise({"block": positions[t]}, begins[t], decides)
        for i in range(3):
            if begins[t, i] or (positions[t, i] != seen[i]).any():
                stood[i] = 0
            elif decides[i]:
                stood[i] += 1
            if decides[i]:
                seen[i] = positions[t, i]
            given = np.zeros(2) if noise is None else noise[i]
            assert given.any() == (stood[i] >= PATIENCE), (t, i)
            if stood[i] >= PATIENCE and decides[i]:
                amounts.setdefault(int(stood[i]), []).append(given)
    assert max(amounts) > 3 * PATIENCE
    assert all((np.array(rows) == rows[0]).all() for rows in amounts.values())  # of the episode alone
    ages = np.array(sorted(amounts))
    first = np.array([amounts[age][0] for age in ages])
    early, late = first[ages < 2 * PATIENCE].std(), first[ages > 3 * PATIENCE].std()
    assert 0.7 < early < 2.0 and 2.0 * early < late


def test_the_mode_acts_until_the_block_rests_for_too_long():
    torch.manual_seed(0)
    task = PushT(features=("agent_pos", "block_pos"))
    actor = Actor(4, 2, [8])
    policy, raw = (
        SACPolicy(actor, task),
        {
            "agent_pos": np.full((2, 2), 100.0),
            "agent_vel": np.zeros((2, 2)),
            "block_pose": np.array([[200.0, 200.0, 1.0]] * 2),
        },
    )
    mode = task.codec(2)
    mode.reset(np.ones(2, bool), raw)
    expected = mode.decode(
        actor.mode(torch.from_numpy(mode.encode(raw))).detach().double().numpy(), raw, np.ones(2, bool)
    )
    for decision in range(PATIENCE + 10):
        raw["block_pose"][1, 0] += 1.0  # the second one moves; its features are not those of `expected`
        actions = policy.act(raw)
        assert (actions[0] == expected[0]).all() == (decision < PATIENCE), decision
    policy.reset(np.array([0]))
    assert (policy.act(raw)[0] == expected[0]).all()
