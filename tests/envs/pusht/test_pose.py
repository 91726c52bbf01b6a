"""Poses out of pictures: the windows, the geometry, the shipped network on states that it has not seen."""

import json

import numpy as np
import pytest
import torch

from common.checkpoint import save_tensors
from common.errors import UserError
from common.untrusted import load_json, load_tensors
from envs.pusht import pose, pose_training
from envs.pusht.observations import wrap_angle
from envs.pusht.pose import POINTS, PoseConfig, PoseEstimator, PoseNetwork, cut_windows, pose_of
from envs.pusht.vector import PushTVectorEnv
from policies import ASSETS
from tests.runs import sentence

TINY = ["--network.channels", "4", "4", "--network.hidden", "16", "--network.agent-hidden", "16"]


@pytest.fixture(scope="module")
def played() -> dict[str, np.ndarray]:
    """Raw observations of 240 states that random targets lead to: walls, contacts, the agent on the T."""
    env, rng, rows = PushTVectorEnv(8, pose.SIDE), np.random.default_rng(7), []
    raw, _ = env.reset(seed=range(8))
    for _ in range(30):
        middle = raw["block_pose"][:, :2]
        rows.append(raw)
        raw, *_ = env.step(np.clip(middle + rng.normal(size=(8, 2)) * 80, 0, 512))
    return {name: np.concatenate([row[name] for row in rows]) for name in raw}


def rectangle(picture: np.ndarray, rows: slice, columns: slice, color: tuple[int, int, int]) -> None:
    picture[rows, columns] = color


def test_windows_lie_around_what_is_coloured():
    """Beside slices of a padded picture; the goal and the grey walls draw nothing to them."""
    pictures = np.full((2, 96, 96, 3), 255, np.uint8)
    rectangle(pictures[0], slice(0, 96), slice(0, 2), (233, 233, 233))
    rectangle(pictures[0], slice(50, 70), slice(20, 40), (144, 238, 144))
    rectangle(pictures[0], slice(60, 64), slice(2, 12), (143, 163, 184))  # its window leaves the picture
    rectangle(pictures[0], slice(90, 94), slice(91, 95), (78, 126, 255))
    rectangle(pictures[1], slice(30, 40), slice(50, 60), (119, 136, 153))
    rectangle(pictures[1], slice(10, 14), slice(20, 24), (65, 105, 225))
    windows = cut_windows(pictures)
    middles = [[(62, 7), (92, 93)], [(35, 55), (12, 22)]]  # row, column where pixels meet
    for n, of_picture in enumerate(middles):
        padded = np.pad(pictures[n], ((40, 40), (40, 40), (0, 0)), constant_values=255)
        for which, (row, column) in enumerate(of_picture):
            window = windows[which][n]
            half = len(window) // 2
            expected = padded[40 + row - half : 40 + row + half, 40 + column - half : 40 + column + half]
            np.testing.assert_array_equal(window, expected)
            on_board = np.array([column, row]) * 512 / 96 - 0.5  # as OpenCV's resize places pixels
            np.testing.assert_allclose(windows.centers[n, which], on_board)


@pytest.mark.parametrize("shape", [(2, 48, 48, 3), (2, 96, 96, 1)])
def test_other_pictures_are_refused(shape):
    with pytest.raises(ValueError, match=r"must be uint8 \(n, 96, 96, 3\)"):
        cut_windows(np.zeros(shape, np.uint8))


def test_the_pose_is_that_of_least_squares():
    rng = np.random.default_rng(0)
    poses = np.column_stack([rng.uniform(0, 512, (50, 2)), rng.uniform(-np.pi, np.pi, 50)])

    def points_of(poses: np.ndarray) -> np.ndarray:  # by complex numbers
        turned = np.exp(1j * poses[:, 2:]) * (POINTS[:, 0] + 1j * POINTS[:, 1])
        placed = poses[:, :1] + 1j * poses[:, 1:2] + turned
        return np.stack([placed.real, placed.imag], axis=2)

    np.testing.assert_allclose(pose_of(points_of(poses)), poses)
    noisy = points_of(poses) + rng.normal(size=(50, 3, 2)) * 5
    best = pose_of(noisy)

    def distance(poses: np.ndarray) -> np.ndarray:
        return ((points_of(poses) - noisy) ** 2).sum((1, 2))

    for change in np.vstack([np.eye(3), -np.eye(3)]) * [0.1, 0.1, 0.002]:
        assert (distance(best) < distance(best + change)).all()


def test_the_shipped_network_knows_states_that_it_has_not_seen(played):
    estimated = pose.load()(played["pixels"])
    agent = np.linalg.norm(estimated["agent_pos"] - played["agent_pos"], axis=1)
    block = np.linalg.norm(estimated["block_pose"][:, :2] - played["block_pose"][:, :2], axis=1)
    turns = np.rad2deg(np.abs(wrap_angle(estimated["block_pose"][:, 2] - played["block_pose"][:, 2])))
    assert np.median(agent) < 1.5 and np.median(block) < 3 and np.median(turns) < 3
    assert np.percentile(agent, 90) < 4 and np.percentile(block, 90) < 8 and np.percentile(turns, 90) < 8


def test_an_estimate_does_not_depend_on_the_other_pictures(played):
    estimator = PoseEstimator(PoseNetwork(PoseConfig((4, 4), 16, 16)))
    some = played["pixels"][::3]
    together = estimator(some)
    for i in (0, 63, 64, len(some) - 1):
        for name, values in estimator(some[i : i + 1]).items():
            np.testing.assert_allclose(values[0], together[name][i], rtol=0, atol=1e-3)
    assert {name: len(values) for name, values in estimator(some[:0]).items()} == dict.fromkeys(together, 0)


@pytest.mark.slow
def test_a_training_learns_and_is_read_back(tmp_path, played):
    before = pose_training.drawn_examples(50, seed=3)
    np.testing.assert_array_equal(before.states, pose_training.drawn_examples(50, seed=3).states)
    flags = f"--pictures 600 --updates 150 --held-out 100 --output {tmp_path}".split()
    pose_training.main([*flags, *TINY])
    notes = json.loads((tmp_path / "config.json").read_text())["trained"]
    torch.manual_seed(1)
    untrained = pose_training.errors(PoseNetwork(PoseConfig((4, 4), 16, 16)), before)
    for name in ("agent_pos px median", "block_pos px median", "block_angle deg median"):
        assert notes[name] < 0.8 * untrained[name]
    gaps = pose.load(tmp_path)(played["pixels"])["agent_pos"] - played["agent_pos"]
    assert np.median(np.abs(gaps)) < 10


def test_damaged_weights_are_refused(tmp_path):
    config = PoseConfig((4, 4), 16, 16)

    def refusal(folder: str, **tensors: torch.Tensor) -> str:
        pose.save(tmp_path / folder, PoseNetwork(config), config, {})
        weights = tmp_path / folder / "model.safetensors"
        save_tensors(weights, load_tensors(weights) | tensors)
        with pytest.raises(UserError) as refused:
            pose.load(tmp_path / folder)
        return str(refused.value)

    assert "not the weights of the network" in refusal("shape", **{"agent.1.bias": torch.zeros(3)})
    assert "not finite" in refusal("nan", **{"agent.1.bias": torch.full((16,), torch.nan)})
    with pytest.raises(UserError, match="missing"):
        pose.load(tmp_path / "nothing")


@pytest.mark.slow
def test_recorded_pictures_are_examples(tmp_path, capsys):
    """Those of a dataset beside the same episodes played again."""
    import collect_dataset

    recorded, keypoints = tmp_path / "pixels", tmp_path / "keypoints"
    flags = ["--policy", str(ASSETS / "sac_expert_fast"), "--hold", "0", "--episodes", "1"]
    collect_dataset.main([*flags, "--observations", "pixels", "--root", str(recorded)])
    collect_dataset.main([*flags, "--root", str(keypoints)])
    examples = pose_training.recorded_examples(recorded)
    env = PushTVectorEnv(1, pose.SIDE)
    raw, _ = env.reset(seed=[1_000_000])
    np.testing.assert_allclose(examples.states[0, :2], raw["agent_pos"][0])
    np.testing.assert_array_equal(examples.windows.block[0], cut_windows(raw["pixels"]).block[0])
    assert len(examples) == load_json(recorded / "meta/info.json")["total_frames"] >= 10
    placed = examples.windows.centers[:, :1] + examples.points.double().numpy()
    np.testing.assert_allclose(pose_of(placed)[:, :2], examples.states[:, 2:4], atol=1e-3)
    capsys.readouterr()
    with pytest.raises(SystemExit):
        pose_training.main(["--dataset", str(keypoints), "--output", str(tmp_path / "x")])
    assert "needs --observations pixels" in sentence(capsys.readouterr().err)
