import numpy as np
import pytest

from envs.pusht.actions import ActionDecoder
from envs.pusht.observations import FEATURES, features, rotate
from envs.pusht.symmetry import mirror, rigid_transform
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv

NAMES = [name for name in FEATURES if name != "block_angle"]
NEW_IN_BLOCK_FRAME = {
    "agent_fourier_in_block_frame",
    "agent_vel_in_block_frame",
    "goal_in_block_frame",
    "target_lead_in_block_frame",
}
COARSE = [name for name in NAMES if name != "agent_fourier_in_block_frame"]  # which tells pixels apart
VIEWS = ([n for n in COARSE if n not in NEW_IN_BLOCK_FRAME], [n for n in COARSE if n in NEW_IN_BLOCK_FRAME])
COUNT = 16


def start_states() -> tuple[np.ndarray, np.ndarray]:
    """Boards (n, 5), the agent beside the T, and their mirror images, written out."""
    rng = np.random.default_rng(0)
    block = rng.uniform(200, 312, (COUNT, 2))
    agent = block + 130 * np.stack([np.cos(t := rng.uniform(-3, 3, COUNT)), np.sin(t)], axis=1)
    angle = rng.uniform(-np.pi, np.pi, COUNT)
    mirrored = [512 - agent[:, ::-1], 512 - block[:, ::-1], (np.pi / 2 - angle)[:, None]]
    return np.concatenate([agent, block, angle[:, None]], axis=1), np.concatenate(mirrored, axis=1)


def test_features_of_a_mirrored_board_are_the_mirrored_features():
    rng = np.random.default_rng(1)
    vel, lead = rng.normal(0, 100, (2, COUNT, 2))
    views = []
    for states, image in zip(start_states(), (False, True), strict=True):
        raw, _ = PushTVectorEnv(COUNT).reset(seed=list(range(COUNT)), options={"states": states})
        raw["agent_vel"] = -vel[:, ::-1] if image else vel
        raw["last_target"] = raw["agent_pos"] + (-lead[:, ::-1] if image else lead)
        views.append(features(raw, NAMES))
    symmetry = mirror(NAMES, "board")
    expected = views[0][:, symmetry.observation_order] * symmetry.observation_signs
    np.testing.assert_allclose(views[1], expected, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "frame", "speed_limit"),
    [
        ("absolute", "board", None),
        ("relative", "board", None),
        ("relative", "block", None),
        ("delta", "board", None),
        ("delta", "block", 25.0),
    ],
)
def test_the_simulator_does_in_the_mirror_what_it_does(mode, frame, speed_limit):
    """Mirrored actions from mirrored starts: features, contacts and all, up to the solver's rounding."""
    symmetry, decoder = mirror(COARSE, frame), ActionDecoder(mode, 60.0, frame, speed_limit)
    real, image = PushTVectorEnv(COUNT), PushTVectorEnv(COUNT)
    raws = []
    for env, states in zip((real, image), start_states(), strict=True):
        raw, _ = env.reset(seed=list(range(COUNT)), options={"states": states})
        raws.append(raw | {"last_target": raw["agent_pos"]})
    first_pose = raws[0]["block_pose"].copy()
    for _ in range(12):
        towards = (raws[0]["block_pose"][:, :2] - raws[0]["agent_pos"]) / 60
        if mode == "absolute":
            towards = raws[0]["block_pose"][:, :2] / 256 - 1
        if frame == "block":
            towards = rotate(towards, -raws[0]["block_pose"][:, 2])
        actions = np.clip(towards, -1, 1)
        mirrored = actions[:, symmetry.action_order] * symmetry.action_signs
        for i, (env, given) in enumerate(((real, actions), (image, mirrored))):
            targets = decoder(given, raws[i])
            raws[i] = env.step(targets)[0] | {"last_target": targets}
        # Chipmunk solves contacts in an order of its own, so now and then a push ends a little differently.
        for names in VIEWS:
            view = mirror(names, frame)
            seen, expected = features(raws[1], names), features(raws[0], names)
            expected = expected[:, view.observation_order] * view.observation_signs
            assert np.quantile(np.abs(seen - expected).max(axis=1), 0.7) < 0.02
            assert names is VIEWS[1] or np.median(np.abs(seen - expected)) < 1e-6
    moved = np.linalg.norm(raws[0]["block_pose"][:, :2] - first_pose[:, :2], axis=1)
    assert np.median(moved) > 10


def test_the_simulator_does_elsewhere_what_it_does():
    """A board shifted and turned by a little, up to the solver's rounding."""
    here, there = np.array([256.0, 256.0, 0.0]), np.array([261.0, 249.0, 0.1])
    starts = start_states()[0]
    moved = np.column_stack(
        [
            rigid_transform(starts[:, :2], here, there),
            rigid_transform(starts[:, 2:4], here, there),
            starts[:, 4] + 0.1,
        ]
    )
    envs = PushTVectorEnv(COUNT), PushTVectorEnv(COUNT)
    raws = [
        env.reset(seed=list(range(COUNT)), options={"states": states})[0]
        for env, states in zip(envs, (starts, moved), strict=True)
    ]
    for _ in range(12):
        targets = raws[0]["block_pose"][:, :2]
        raws = [envs[0].step(targets)[0], envs[1].step(rigid_transform(targets, here, there))[0]]
        gaps = np.abs(rigid_transform(raws[0]["keypoints"], here, there) - raws[1]["keypoints"]).max(
            axis=(1, 2)
        )
        assert np.quantile(gaps, 0.7) < 0.02 and np.median(gaps) < 1e-6
    assert np.median(np.linalg.norm(raws[0]["block_pose"][:, :2] - starts[:, 2:4], axis=1)) > 10


def test_a_pose_is_carried_onto_the_other():
    """Points told in the T's own frame are where they were in it."""
    rng = np.random.default_rng(2)
    pose, onto = rng.uniform([0, 0, -4], [512, 512, 4], (2, 3))
    points = rng.uniform(-50, 50, (4, 5, 2))
    at = [
        rotate(points.reshape(-1, 2), np.full(20, p[2])).reshape(points.shape) + p[:2] for p in (pose, onto)
    ]
    np.testing.assert_allclose(rigid_transform(at[0], pose, onto), at[1])


def test_an_angle_that_wraps_has_no_mirror_image():
    with pytest.raises(ValueError, match="mirror must be false with block_angle"):
        mirror(["agent_pos", "block_angle"], "board")


@pytest.mark.parametrize("name", ["block_pose", "agent_vel", "observation.state"])
def test_what_is_not_known_to_be_points_is_not_mirrored_as_one(name):
    with pytest.raises(ValueError, match=f"must be action, agent_pos or keypoints, got {name}$"):
        PushT().mirror_feature(name, np.zeros((4, 2), np.float32), drawn=False)


@pytest.mark.parametrize(("drawn", "total"), [(False, 512), (True, 511)])
def test_recorded_points_are_mirrored_across_the_diagonal(drawn, total):
    """Point by point; of the corners of a rectangle each takes the place of its neighbour."""
    corners = np.random.default_rng(3).uniform(0, 512, (5, 8, 2)).astype(np.float32)
    expected = [[(total - row[i ^ 1][1], total - row[i ^ 1][0]) for i in range(8)] for row in corners]
    seen = PushT().mirror_feature("keypoints", corners.reshape(5, 16), drawn)
    np.testing.assert_allclose(seen.reshape(5, 8, 2), expected, atol=1e-4)
    for name in ("action", "agent_pos"):
        seen = PushT().mirror_feature(name, corners[:, 0], drawn)
        np.testing.assert_allclose(seen, [(total - y, total - x) for x, y in corners[:, 0]], atol=1e-4)
