"""Features in the block's frame, beside complex numbers: a rotation is one product."""

import cmath

import numpy as np

from envs.pusht.observations import GOAL_POSE, features, rotate

IN_BLOCK_FRAME = (
    "agent_in_block_frame",
    "agent_vel_in_block_frame",
    "target_lead_in_block_frame",
    "goal_in_block_frame",
    "agent_fourier_in_block_frame",
)


def raw_observation(n: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "agent_pos": rng.uniform(20, 490, (n, 2)),
        "agent_vel": rng.normal(0, 100, (n, 2)),
        "last_target": rng.uniform(20, 490, (n, 2)),
        "block_pose": np.concatenate([rng.uniform(100, 400, (n, 2)), rng.uniform(-9, 9, (n, 1))], axis=1),
    }


def test_features_in_the_block_frame():
    raw = raw_observation(20)
    seen = features(raw, IN_BLOCK_FRAME)
    for i in range(20):
        agent, velocity, target = (complex(*raw[k][i]) for k in ("agent_pos", "agent_vel", "last_target"))
        block, turn = complex(*raw["block_pose"][i, :2]), cmath.exp(-1j * raw["block_pose"][i, 2])
        way = (complex(*GOAL_POSE[:2]) - block) * turn
        expected = [(agent - block) * turn / 100, velocity * turn / 200, (target - agent) * turn / 40]
        expected = [part for number in expected for part in (number.real, number.imag)]
        expected += [way.real / 128, way.imag / 128]
        expected += [part / (20 + abs(part)) for part in (way.real, way.imag)]
        near = [max(-1.25, min(part, 1.25)) for part in expected[:2]]
        for period in (100, 50):
            waves = [cmath.exp(2j * cmath.pi * 100 * part / period) for part in near]
            expected += [wave.imag for wave in waves] + [wave.real for wave in waves]
        np.testing.assert_allclose(seen[i], expected, rtol=1e-5, atol=1e-6)


def test_they_do_not_change_when_the_whole_board_turns():
    raw = raw_observation(20)
    centre, by = np.array([256.0, 256.0]), np.full(20, 0.7)
    turned = {key: rotate(raw[key] - centre, by) + centre for key in ("agent_pos", "last_target")}
    turned["agent_vel"] = rotate(raw["agent_vel"], by)
    block = rotate(raw["block_pose"][:, :2] - centre, by) + centre
    turned["block_pose"] = np.concatenate([block, raw["block_pose"][:, 2:] + 0.7], axis=1)
    # The goal lies in the board's middle, so its place turns with the board; only its angle does not.
    np.testing.assert_allclose(
        features(turned, IN_BLOCK_FRAME), features(raw, IN_BLOCK_FRAME), rtol=1e-4, atol=1e-5
    )
