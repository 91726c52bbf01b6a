import json
from pathlib import Path

import numpy as np
import pytest
from lerobot.datasets import LeRobotDataset

from common.errors import UserError
from recording.dataset import Dataset, Notes
from recording.imported import import_human, load
from recording.schema import Recipe
from recording.verify import verify

HUMAN = Path(__file__).parents[2] / "../shared/data/human_pusht.npz"
needs_people = pytest.mark.skipif(
    not HUMAN.exists(), reason="no recorded demonstrations beside the repository"
)
EPISODES = 3


@pytest.fixture(scope="module")
def source():
    """The first demonstrations, as arrays."""
    if not HUMAN.exists():
        pytest.skip("no recorded demonstrations beside the repository")
    pictures = np.load(HUMAN.with_name("human_pusht_img.npz"))["img"]
    arrays = dict(np.load(HUMAN))
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


def dataset_at(root, **settings):
    recipe = Recipe(policy="import", fingerprint="people", all=True, **settings)
    return Dataset(root, Notes(recipe, next_seed=recipe.seed))


def test_demonstrations_become_a_dataset(file, source, tmp_path, capsys):
    dataset = dataset_at(tmp_path / "data")
    assert import_human(dataset, file)
    opened = LeRobotDataset("local/people", root=dataset.root)
    rows = opened.hf_dataset.with_format("numpy")[:]
    np.testing.assert_array_equal(np.stack(rows["action"]), source["action"])
    np.testing.assert_array_equal(np.stack(rows["observation.state"]), source["state"][:, :2])
    assert list(opened.meta.episodes["dataset_to_index"]) == list(source["episode_ends"])
    for index in (0, 100, len(opened) - 1):
        picture = opened[index]["observation.image"].numpy().transpose(1, 2, 0) * 255
        np.testing.assert_allclose(picture, source["img"][index], atol=1e-3)
    assert verify(dataset)
    assert f"{EPISODES} of {EPISODES} episodes replay within 1 px" in capsys.readouterr().out


@needs_people
def test_no_success_that_was_not_one(source, tmp_path):
    """Rewards beside the stock simulator's, which plays all actions from the first state."""
    from envs.vector import PushTVectorEnv

    np.savez(tmp_path / "people.npz", **source)
    dataset = dataset_at(tmp_path / "data", observations="keypoints")
    import_human(dataset, tmp_path / "people.npz")
    rows = LeRobotDataset("local/people", root=dataset.root).hf_dataset.with_format("numpy")[:]
    env, starts = PushTVectorEnv(1, "stock"), [0, *source["episode_ends"][:-1]]
    for start, end in zip(starts, source["episode_ends"], strict=True):
        env.reset(seed=[0], options={"states": source["state"][start : start + 1].astype(np.float64)})
        for t in range(start, end):
            env.advance(source["action"][t : t + 1].astype(np.float64), np.ones(1, bool))
            coverage = env.infos()["coverage"][0]
            assert abs(rows["next.reward"][t] - min(coverage / 0.95, 1.0)) < 0.01
            assert rows["next.success"][t] == (coverage > 0.95)


def test_a_file_of_something_else(tmp_path):
    np.savez(tmp_path / "other.npz", state=np.zeros((4, 5)), action=np.zeros((4, 2)))
    with pytest.raises(UserError, match="has no episode_ends; it must hold state, action and episode_ends"):
        load(tmp_path / "other.npz")
    np.savez(tmp_path / "cut.npz", state=np.zeros((4, 5)), action=np.zeros((4, 2)), episode_ends=[3])
    with pytest.raises(UserError, match=r"expected state \(N, 5\), action \(N, 2\) and episode_ends up to N"):
        load(tmp_path / "cut.npz")
