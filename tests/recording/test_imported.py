import json
import signal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from imageio.v3 import imread
from lerobot.datasets import LeRobotDataset

from common.errors import UserError
from envs.pusht import demonstrations
from envs.pusht.demonstrations import _replay as replay
from envs.pusht.demonstrations import fingerprint, load
from envs.pusht.simulator import PushTEnv
from recording import imported
from recording.dataset import Dataset, Notes
from recording.imported import import_demonstrations
from recording.schema import IMPORT, Recipe
from recording.verify import verify

pytestmark = pytest.mark.slow

PEOPLE = Path(__file__).parents[2] / "../shared/data/human_pusht.npz"
EPISODES = 3


@pytest.fixture(scope="module", params=["people", "ours"])
def source(request, block):
    """A few demonstrations as arrays: the first of the classic ones, or episodes of the expert."""
    if request.param == "ours":
        episodes = block[:EPISODES]
        return {
            "state": np.concatenate([e.columns["sim.state"][:, :5] for e in episodes]).astype(np.float32),
            "action": np.concatenate([e.columns["action"] for e in episodes]),
            "episode_ends": np.cumsum([len(e) for e in episodes]),
            "img": np.stack([imread(png) for e in episodes for png in e.pictures]),
        }
    if not PEOPLE.exists():
        pytest.skip("no recorded demonstrations beside the repository")
    pictures = np.load(PEOPLE.with_name("human_pusht_img.npz"))["img"]
    arrays = dict(np.load(PEOPLE))
    ends = arrays["episode_ends"][:EPISODES]
    return {name: arrays[name][: ends[-1]] for name in ("state", "action")} | {
        "episode_ends": ends,
        "img": pictures[: ends[-1]],
    }


def write_zarr(folder, arrays):
    """As zarr 2 does it, without compression, in chunks that do not divide the length."""
    for name, values in arrays.items():
        array = folder / ("meta" if name == "episode_ends" else "data") / name
        array.mkdir(parents=True)
        rows = max(1, len(values) // 2 - 1)
        info = {"zarr_format": 2, "shape": values.shape, "chunks": [rows, *values.shape[1:]]}
        info |= {
            "dtype": values.dtype.str,
            "compressor": None,
            "order": "C",
            "filters": None,
            "fill_value": 0,
        }
        (array / ".zarray").write_text(json.dumps(info))
        for number, first in enumerate(range(0, len(values), rows)):
            chunk = np.zeros((rows, *values.shape[1:]), values.dtype)
            part = values[first : first + rows]
            chunk[: len(part)] = part
            (array / ".".join([str(number), *["0"] * (values.ndim - 1)])).write_bytes(chunk.tobytes())


@pytest.fixture(params=["npz", "zarr"])
def file(request, source, tmp_path):
    path = tmp_path / f"people.{request.param}"
    write_zarr(path, source) if request.param == "zarr" else np.savez(path, **source)
    return path


def dataset_at(root, source, **settings):
    side = source["img"].shape[1]
    settings = {"observations": "pixels", "hold": 0} | settings
    recipe = Recipe(policy=IMPORT, fingerprint="people", all=True, resolution=side, **settings)
    return Dataset(root, Notes(recipe, next_seed=recipe.seed))


def test_demonstrations_become_a_dataset(file, source, tmp_path, capsys):
    dataset = dataset_at(tmp_path / "data", source)
    assert import_demonstrations(dataset, file)
    opened = LeRobotDataset("local/people", root=dataset.root)
    rows = opened.hf_dataset.with_format("numpy")[:]
    np.testing.assert_array_equal(np.stack(rows["action"]), source["action"])
    np.testing.assert_array_equal(np.stack(rows["observation.state"]), source["state"][:, :2])
    assert list(opened.meta.episodes["dataset_to_index"]) == list(source["episode_ends"])
    for index in (0, len(opened) // 2, len(opened) - 1):
        picture = opened[index]["observation.image"].numpy().transpose(1, 2, 0) * 255
        np.testing.assert_allclose(picture, source["img"][index], atol=1e-3)
    assert verify(dataset)
    assert f"{EPISODES} of {EPISODES} episodes replay within 1 px" in capsys.readouterr().out


def test_demonstrations_as_a_video(file, source, tmp_path):
    dataset = dataset_at(tmp_path / "data", source, video=True)
    assert import_demonstrations(dataset, file)
    assert verify(dataset)


def test_ctrl_c_saves_what_it_has(source, tmp_path, monkeypatch):
    np.savez(tmp_path / "people.npz", **source)
    whole, dataset = (dataset_at(tmp_path / name, source, observations="keypoints") for name in "ab")
    assert import_demonstrations(whole, tmp_path / "people.npz")
    monkeypatch.setattr(imported, "EPISODES_PER_SAVE", 1)
    with monkeypatch.context() as patch:
        patch.setattr(demonstrations, "check_pusht", lambda *_: None)
        patch.setattr(
            demonstrations, "_replay", lambda *args: signal.raise_signal(signal.SIGINT) or replay(*args)
        )
        assert not import_demonstrations(dataset, tmp_path / "people.npz")
    assert LeRobotDataset("local/people", root=dataset.root).num_episodes == 1
    assert import_demonstrations(dataset, tmp_path / "people.npz")
    assert (dataset.episodes, dataset.frames) == (whole.episodes, whole.frames)


def test_no_success_that_was_not_one(source, tmp_path):
    """Rewards beside the stock simulator's, which plays all actions from the first state."""
    from envs.pusht.vector import StockPushTVectorEnv

    np.savez(tmp_path / "people.npz", **source)
    dataset = dataset_at(tmp_path / "data", source, observations="keypoints")
    import_demonstrations(dataset, tmp_path / "people.npz")
    rows = LeRobotDataset("local/people", root=dataset.root).hf_dataset.with_format("numpy")[:]
    env, starts = StockPushTVectorEnv(1), [0, *source["episode_ends"][:-1]]
    for start, end in zip(starts, source["episode_ends"], strict=True):
        env.reset(seed=[0], options={"states": source["state"][start : start + 1].astype(np.float64)})
        for t in range(start, end):
            env.active[:] = True
            *_, infos = env.step(source["action"][t : t + 1])
            coverage = infos["progress"][0]
            assert abs(rows["next.reward"][t] - min(coverage / 0.95, 1.0)) < 0.01
            assert rows["next.success"][t] == (coverage > 0.95)


@pytest.mark.parametrize(
    ("column", "change", "message"),
    [
        ("next.success", lambda values: [not value for value in values], ": next.success in"),
        ("next.reward", lambda values: [value + 0.04 for value in values], "next.reward by up to 0.04"),
    ],
)
def test_changed_demonstrations_are_found(column, change, message, source, tmp_path, capsys):
    np.savez(tmp_path / "people.npz", **source)
    dataset = dataset_at(tmp_path / "data", source, observations="keypoints")
    import_demonstrations(dataset, tmp_path / "people.npz")
    (path,) = (dataset.root / "data").rglob("*.parquet")
    table = pq.read_table(path)
    field = table.schema.field(column)
    values = pa.array(change(table[column].to_pylist()), field.type)
    pq.write_table(table.set_column(table.column_names.index(column), field, values), path)
    assert not verify(dataset)
    printed = capsys.readouterr().out
    assert printed.count(message) == EPISODES and f"0 of {EPISODES} episodes replay" in printed


def test_a_dataset_is_of_what_the_file_holds(tmp_path):
    arrays = {"state": np.zeros((4, 5)), "action": np.zeros((4, 2)), "episode_ends": [4]}
    for name, start in (("one", 0.0), ("same", 0.0), ("other", 1.0)):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "people.npz", **arrays | {"state": arrays["state"] + start})
        write_zarr(tmp_path / name / "zarr", {"state": arrays["state"] + start})
    for file in ("people.npz", "zarr"):
        one, same, other = (fingerprint(tmp_path / name / file) for name in ("one", "same", "other"))
        assert one == same != other


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"episode_ends": [3, 2, 4]}, "episode_ends must grow from one episode to the next"),
        ({"episode_ends": [0, 4]}, "episode_ends must grow from one episode to the next"),
        ({"state": np.full((4, 5), np.nan)}, "state and action must be finite numbers"),
        ({"action": np.full((4, 2), np.inf)}, "state and action must be finite numbers"),
        ({"episode_ends": [2.0, 4.0]}, "expected state .* and episode_ends up to N"),
        ({"episode_ends": 4}, "expected state .* and episode_ends up to N"),
        ({"episode_ends": np.zeros(0, int)}, "expected state .* and episode_ends up to N"),
        (
            {"img": np.zeros((3, 8, 8, 3), np.uint8)},
            r"img must hold 4 pictures \(side, side, 3\)",
        ),
        (
            {"img": np.zeros((4, 8, 12, 3), np.uint8)},
            r"img must hold 4 pictures \(side, side, 3\)",
        ),
    ],
)
def test_demonstrations_that_make_no_sense(changes, message, tmp_path):
    arrays = {"state": np.zeros((4, 5)), "action": np.zeros((4, 2)), "episode_ends": [2, 4]}
    np.savez(tmp_path / "odd.npz", **arrays | changes)
    with pytest.raises(UserError, match=message):
        load(tmp_path / "odd.npz")


def played(length=60):
    """Arrays of two demonstrations, played in the simulator."""
    env, rng = PushTEnv(), np.random.default_rng(0)
    states, actions, pictures = [], [], []
    for start in ([100.0, 400.0, 200.0, 200.0, 1.0], [60.0, 60.0, 300.0, 250.0, 4.0]):
        env.set_state(start)
        for action in rng.uniform(100, 400, (length, 2)):
            states.append(env.get_state()[:5])
            actions.append(action)
            pictures.append(env._render())
            env.step(action)
    ends = [length, 2 * length]
    return {
        "state": np.array(states, np.float32),
        "action": np.array(actions, np.float32),
        "episode_ends": np.array(ends),
        "img": np.stack(pictures),
    }


def degrees(arrays):
    arrays["state"][:, 4] *= 180 / np.pi


def at_half_the_pace(arrays):
    arrays["state"], arrays["action"], arrays["img"] = (arrays[n][::2] for n in ("state", "action", "img"))
    arrays["episode_ends"] = arrays["episode_ends"] // 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda a: a.update(state=a["state"] / 512, action=a["action"] / 512),
            "got .*, which looks normalised",
        ),
        (
            lambda a: a.update(state=a["state"] / 256 - 1, action=a["action"] / 256 - 1),
            "got .*, which looks normalised",
        ),
        (lambda a: a.update(action=a["action"] - a["state"][:, :2]), "action .* looks relative to the agent"),
        (lambda a: a.update(state=a["state"] * 100), "agent must be x, y in pixels"),
        (lambda a: a.update(action=a["action"][::-1]), "0 of 2 demonstrations replay"),
        (lambda a: a.update(state=a["state"][:, [2, 3, 0, 1, 4]]), "0 of 2 demonstrations replay"),
        (degrees, "0 of 2 demonstrations replay"),
        (at_half_the_pace, "0 of 2 demonstrations replay"),
        (
            lambda a: a.update(img=(a["img"] / 255).astype(np.float32)),
            "whole numbers from 0 to 255, got .* to 1",
        ),
        (
            lambda a: a.update(img=a["img"].astype(np.int16) + 100),
            "img must hold whole numbers from 0 to 255",
        ),
        (lambda a: a.update(img=np.full(a["img"].shape, np.nan, np.float32)), "whole numbers from 0 to 255"),
        (lambda a: a.update(img=a["img"][..., ::-1]), "have red and blue exchanged"),
        (lambda a: a.update(img=a["img"] // 255), "of 255 from PushT's"),
        (lambda a: a.update(img=a["img"][::-1].copy()), "of 255 from PushT's"),
    ],
)
def test_demonstrations_of_something_else(change, message, tmp_path):
    arrays = played()
    np.savez(tmp_path / "right.npz", **arrays)
    np.savez(tmp_path / "floats.npz", **arrays | {"img": arrays["img"].astype(np.float32)})
    for name in ("right.npz", "floats.npz"):
        (*_, last) = demonstrations.PeoplesDemonstrations(tmp_path / name, 96, False).read(0)
        np.testing.assert_array_equal(last.pictures, arrays["img"][60:])
    change(arrays)
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(UserError, match=message):
        demonstrations.PeoplesDemonstrations(tmp_path / "odd.npz", 96, False)


@pytest.mark.parametrize("hindsight", [False, True])
def test_pictures_that_are_not_recorded_are_not_read(tmp_path, hindsight):
    """Those of something else change nothing: without pictures, and where hindsight draws them."""
    arrays = played()
    without = {name: array for name, array in arrays.items() if name != "img"}
    np.savez(tmp_path / "with.npz", **without, img=(arrays["img"] / 255).astype(np.float32))
    np.savez(tmp_path / "without.npz", **without)
    resolution = 96 if hindsight else 0
    ours, theirs = (
        list(demonstrations.PeoplesDemonstrations(tmp_path / f"{name}.npz", resolution, hindsight).read(0))
        for name in ("with", "without")
    )
    assert len(ours) == len(theirs) and (hindsight or len(ours) == 2)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.actions, other.actions)
        np.testing.assert_equal(one.observations, other.observations)
        np.testing.assert_array_equal(one.pictures, other.pictures)


def test_a_damaged_file(tmp_path):
    arrays = {"state": np.ones((400, 5)), "action": np.ones((400, 2)), "episode_ends": [400]}
    np.savez_compressed(tmp_path / "whole.npz", **arrays)
    whole = (tmp_path / "whole.npz").read_bytes()
    flipped = bytearray(whole)
    flipped[60:64] = bytes(255 - value for value in flipped[60:64])
    for damaged in (whole[: len(whole) // 2], bytes(flipped)):
        (tmp_path / "damaged.npz").write_bytes(damaged)
        with pytest.raises(UserError, match="damaged.npz: cannot be read as demonstrations"):
            load(tmp_path / "damaged.npz")


def test_a_file_of_something_else(tmp_path):
    np.savez(tmp_path / "other.npz", state=np.zeros((4, 5)), action=np.zeros((4, 2)))
    with pytest.raises(UserError, match="has no episode_ends; it must hold state, action and episode_ends"):
        load(tmp_path / "other.npz")
    np.savez(tmp_path / "cut.npz", state=np.zeros((4, 5)), action=np.zeros((4, 2)), episode_ends=[3])
    with pytest.raises(UserError, match=r"expected state \(N, 5\), action \(N, 2\) and episode_ends up to N"):
        load(tmp_path / "cut.npz")
