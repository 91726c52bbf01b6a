"""Demonstrations moved to where they succeed, and that they succeed there in the stock simulator."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset

from common.errors import UserError
from envs.pusht.demonstrations import (
    MIN_END_DISTANCE_PX,
    MIN_PUSH_PX,
    MIN_SEGMENT_STEPS,
    WALL_MARGIN_PX,
    load,
    segments,
)
from envs.pusht.simulator import PushTEnv
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from policies import EXPERT, load_policy
from recording.dataset import Dataset, Notes
from recording.imported import import_demonstrations
from recording.schema import IMPORT, Recipe
from recording.verify import verify

PEOPLE = Path(__file__).parents[2] / "../shared/data/human_pusht.npz"
EPISODES = 3


@pytest.fixture(scope="module", params=["people", "ours"])
def file(request, tmp_path_factory):
    """A few demonstrations: the first of the classic ones, or episodes of the smooth expert."""
    if request.param == "people" and not PEOPLE.exists():
        pytest.skip("no recorded demonstrations beside the repository")
    if request.param == "people":
        arrays = dict(np.load(PEOPLE))
        ends = arrays["episode_ends"][:EPISODES]
        states, actions = (arrays[name][: ends[-1]] for name in ("state", "action"))
    else:
        played = rollout(PushTVectorEnv(8), load_policy(EXPERT), range(7_000, 7_008))
        episodes = [episode for episode in played if len(episode) > 40][:EPISODES]
        poses = [np.hstack([e.observations[k][:-1] for k in ("agent_pos", "block_pose")]) for e in episodes]
        states, actions = np.concatenate(poses), np.concatenate([e.actions for e in episodes])
        ends = np.cumsum([len(e) for e in episodes])
    path = tmp_path_factory.mktemp("demonstrations") / "people.npz"
    np.savez(path, state=states, action=actions, episode_ends=ends)
    return path


def points(states):
    """Corners of the T and the agent (n, 9, 2), as the environment tells them."""
    raw, _ = PushTVectorEnv(len(states)).reset(
        seed=[0] * len(states), options={"states": states.astype(np.float64)}
    )
    return np.concatenate([raw["keypoints"], raw["agent_pos"][:, None]], axis=1)


def moved(xy, pose, onto=(256.0, 256.0, np.pi / 4)):
    """Points (..., 2) in complex numbers, in which to turn is to multiply."""
    turn = np.exp(1j * (onto[2] - pose[2]))
    numbers = (xy @ [1, 1j] - pose[:2] @ [1, 1j]) * turn + onto[0] + 1j * onto[1]
    return np.stack([numbers.real, numbers.imag], axis=-1)


def test_segments_lead_to_places_apart_without_leaving_the_board(file):
    source = load(file)
    states, found = source.states.astype(np.float64), list(segments(PushTVectorEnv(1), source))
    first, last = np.concatenate([[0], source.ends[:-1]]), source.ends
    corners, longest = points(states), 0
    for start, end in zip(first, last, strict=True):
        own = [s for s in found if start <= s.start < end]
        longest += own[0].stop == end  # the whole of it, as far as it stays on the board
        poses = [states[min(segment.stop, end - 1), 2:5] for segment in own]
        for segment, pose in zip(own, poses, strict=True):
            way = moved(corners[max(segment.start - 1, start) : segment.stop], pose)
            outside = ((way < WALL_MARGIN_PX) | (way > 512 - WALL_MARGIN_PX)).any(axis=(1, 2))
            assert not outside[-(segment.stop - segment.start) :].any()
            assert segment.start == start or outside[0]  # as early as it can
            assert segment.stop - segment.start >= MIN_SEGMENT_STEPS
            assert distance(states[segment.start, 2:5], pose) >= MIN_PUSH_PX
        assert all(distance(*pair) >= MIN_END_DISTANCE_PX for pair in pairwise(poses))
    assert longest == EPISODES and len(found) > 5 * EPISODES


def distance(pose, other):
    """Pixels, and 50 of them for a radian."""
    turn = np.angle(np.exp(1j * (pose[2] - other[2])))
    return np.hypot(*(pose[:2] - other[:2])) + 50.0 * abs(turn)


@pytest.mark.slow
def test_segments_succeed_in_the_stock_simulator(file, tmp_path, capsys):
    """The same ways as recorded, a little aside, up to their one success."""
    recipe = Recipe(policy=IMPORT, hindsight=True, observations="pixels", resolution=32, hold=0)
    dataset = Dataset(tmp_path / "data", Notes(recipe, next_seed=0))
    assert import_demonstrations(dataset, file)
    notes, source = dataset.notes, load(file)
    assert (
        dataset.episodes
        == notes.successes
        <= notes.attempts
        == len(list(segments(PushTVectorEnv(1), source)))
    )
    opened = LeRobotDataset("local/people", root=dataset.root)
    rows = opened.hf_dataset.with_format("numpy")[:]
    starts, ends = (np.array(opened.meta.episodes[f"dataset_{side}_index"]) for side in ("from", "to"))
    np.testing.assert_array_equal(np.flatnonzero(rows["next.success"]), ends - 1)
    for start, end in zip(starts, ends, strict=True):
        actions, agent = (np.stack(rows[name][start:end]) for name in ("action", "observation.state"))
        recorded = where_recorded(actions, source.actions)
        on_board = np.all((actions > 0) & (actions < 512), axis=1)
        begun = np.arange(end - start) > 5  # at rest; by now the agent has caught up with the recorded one
        for xy, way, where, atol in (
            (actions, source.actions[recorded], on_board, 1e-3),
            (agent, source.states[recorded, :2], begun, 2.0),
        ):
            between = [np.linalg.norm(p[where][:, None] - p[where], axis=2) for p in (xy, way)]
            np.testing.assert_allclose(*between, atol=atol, rtol=1e-5)
    assert verify(dataset)  # pictures, too
    assert f"{len(ends)} of {len(ends)} episodes replay exactly" in capsys.readouterr().out


def where_recorded(moved, actions):
    """The place of the actions that have the same distances from each other, but for clipped ones."""

    def distances(xy):
        return np.linalg.norm(xy[:, None] - xy, axis=2)

    windows = np.lib.stride_tricks.sliding_window_view(actions, len(moved), axis=0).transpose(0, 2, 1)
    gaps = [np.median(np.abs(distances(window) - distances(moved))) for window in windows]
    return slice(int(np.argmin(gaps)), int(np.argmin(gaps)) + len(moved))


def test_what_only_a_wall_brings_about_is_left_out(tmp_path):
    """The agent pushes the T into a corner, which stops it; where the goal is, nothing does."""
    env, states = PushTEnv(), []
    env.set_state([220.0, 220.0, 100.0, 100.0, np.pi / 4])
    for _ in range(40):
        states.append(env.get_state()[:5])
        env.step([20.0, 20.0])
    np.savez(tmp_path / "people.npz", state=states, action=np.full((40, 2), 20.0), episode_ends=[40])
    dataset = Dataset(
        tmp_path / "data",
        Notes(Recipe(policy=IMPORT, hindsight=True, observations="keypoints", hold=0), next_seed=0),
    )
    with pytest.raises(UserError, match="no demonstration succeeds in hindsight"):
        import_demonstrations(dataset, tmp_path / "people.npz")
    assert not (tmp_path / "data").exists()
