"""Features beside NumPy's, all environments at once, and in the block's frame beside complex numbers."""

import cmath

import numpy as np
import pytest

from envs.pusht.observations import FEATURES, GOAL_POSE, feature_size, features, rotate

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
        "keypoints": rng.uniform(20, 490, (n, 8, 2)),
    }


def with_numpy(raw: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Every feature, (n, k) each."""
    agent, velocity, target, pose = (raw[k] for k in ("agent_pos", "agent_vel", "last_target", "block_pose"))
    block, angle = pose[:, :2], pose[:, 2:]
    cos, sin = np.cos(angle), np.sin(angle)

    def turned_back(vectors: np.ndarray) -> np.ndarray:
        x, y = vectors[:, :1], vectors[:, 1:]
        return np.hstack([cos * x + sin * y, cos * y - sin * x])

    def squashed(values: np.ndarray, half: float) -> np.ndarray:
        return values / (half + np.abs(values))

    phases = 2 * np.pi * np.clip(turned_back(agent - block) / 100, -1.25, 1.25)
    way = turned_back(GOAL_POSE[:2] - block)
    angle_error = np.sin(angle - GOAL_POSE[2])
    return {
        "agent_pos": agent / 256 - 1,
        "agent_vel": velocity / 200,
        "block_pos": block / 256 - 1,
        "block_angle": np.mod(angle, 2 * np.pi) / np.pi - 1,
        "block_rotation": np.hstack([cos, sin]),
        "agent_in_block_frame": turned_back(agent - block) / 100,
        "agent_fourier_in_block_frame": np.hstack(
            [np.sin(phases), np.cos(phases), np.sin(2 * phases), np.cos(2 * phases)]
        ),
        "agent_vel_in_block_frame": turned_back(velocity) / 200,
        "goal_in_block_frame": np.hstack([way / 128, squashed(way, 20)]),
        "goal_error": np.hstack([squashed(block - GOAL_POSE[:2], 20), squashed(angle_error, 0.2)]),
        "target_lead": (target - agent) / 40,
        "target_lead_in_block_frame": turned_back(target - agent) / 40,
        "keypoints": raw["keypoints"].reshape(-1, 16) / 256 - 1,
    }


def test_every_feature_equals_numpys():
    raw = raw_observation(50)
    expected = with_numpy(raw)
    assert list(expected) == list(FEATURES)
    for name, values in expected.items():
        np.testing.assert_allclose(features(raw, [name]), values, rtol=1e-5, atol=1e-6, err_msg=name)
        assert feature_size([name]) == values.shape[1]
    names = [*reversed(expected), "agent_pos"]
    side_by_side = np.hstack([expected[name] for name in names])
    np.testing.assert_allclose(features(raw, names), side_by_side, rtol=1e-5, atol=1e-6)
    assert features(raw, names).dtype == np.float32
    assert feature_size(names) == side_by_side.shape[1]


@pytest.mark.parametrize("name", ["target_lead", "keypoints", "agent_vel", "block_rotation"])
def test_a_feature_of_what_is_not_there(name):
    with pytest.raises(KeyError):
        features({"agent_pos": np.zeros((3, 2))}, ["agent_pos", name])


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
