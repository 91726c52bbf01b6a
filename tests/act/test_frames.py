"""Batches against LeRobot's own dataset, sampler, loader and preprocessor; and datasets that do not suit."""

import json
import resource
import shutil
from io import BytesIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from lerobot.configs.default import DatasetConfig as LeRobotDatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.factory import make_dataset as open_lerobots
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.policies import make_pre_post_processors
from PIL import Image
from torch.utils.data import DataLoader

from act.dataset import DatasetConfig, features_of, open_dataset
from act.frames import Frames, Order
from act.policy import PolicyConfig, act_config, choose_inputs
from common.errors import UserError
from envs.vector import PushTVectorEnv

CHUNK = 7
POLICY = PolicyConfig(chunk_size=CHUNK, n_action_steps=2)


@pytest.fixture(scope="module")
def datasets(make_dataset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("datasets")
    return {
        "state": make_dataset(folder / "state"),
        "image": make_dataset(folder / "image", pictures=16),
        "video": make_dataset(folder / "video", pictures=64, kind="video"),
    }


def open_ours(root, folder, **settings):
    config = DatasetConfig(root=root, **settings)
    meta = open_dataset(config)
    terms = act_config(POLICY, features_of(meta), device="cpu")
    pre, _ = make_pre_post_processors(terms, dataset_stats=meta.stats)
    return Frames(meta, terms.input_features, CHUNK, pre, torch.device("cpu"), config, folder), pre, terms


def lerobots_batches(root, terms, epochs, batch_size, seed, episodes=None):
    """As `lerobot_train.train` makes them."""
    config = TrainPipelineConfig(
        dataset=LeRobotDatasetConfig(
            repo_id="local/x", root=str(root), episodes=episodes, video_backend="pyav"
        ),
        policy=terms,
    )
    dataset = open_lerobots(config)
    pre, _ = make_pre_post_processors(terms, dataset_stats=dataset.meta.stats)
    sampler = EpisodeAwareSampler(
        dataset.meta.episodes["dataset_from_index"],
        dataset.meta.episodes["dataset_to_index"],
        episode_indices_to_use=dataset.episodes,
        shuffle=True,
        seed=seed,
        absolute_to_relative_idx=dataset.absolute_to_relative_idx,
    )
    loader = DataLoader(dataset, batch_size=batch_size, sampler=sampler)
    for _ in range(epochs):
        for batch in loader:
            for camera in dataset.meta.camera_keys:
                if batch[camera].dtype == torch.uint8:
                    batch[camera] = batch[camera].to(torch.float32) / 255.0
            yield pre(batch)


@pytest.mark.parametrize(
    "kind, settings",
    [
        ("state", {}),
        ("state", {"episodes": 2}),
        ("image", {}),
        ("image", {"episodes": 2}),
        ("image", {"memory_gb": 0.0}),
        ("video", {}),
    ],
)
def test_batches_are_lerobots(datasets, tmp_path, kind, settings):
    frames, _, terms = open_ours(datasets[kind], tmp_path, **settings)
    episodes = list(range(settings["episodes"])) if "episodes" in settings else None
    order = Order(frames.num_frames, 4, seed=3)
    ours = [frames.batch(indices) for epoch in range(2) for indices in order.epoch(epoch)]
    theirs = list(lerobots_batches(datasets[kind], terms, 2, 4, 3, episodes))
    assert len(ours) == len(theirs) and any(len(batch["action"]) < 4 for batch in ours)
    for our, their in zip(ours, theirs, strict=True):
        assert set(our) == {*terms.input_features, "action", "action_is_pad"}
        for name, tensor in our.items():
            assert tensor.dtype == their[name].dtype and torch.equal(tensor, their[name]), name


@pytest.mark.parametrize("settings", [{}, {"memory_gb": 0.0}])
@pytest.mark.parametrize("camera", [True, False], ids=["pictures", "keypoints"])
def test_the_mirror_images_are_those_of_mirrored_boards(tmp_path, camera, settings):
    """As the environment observes and draws them; a flipped picture shows them half a pixel from there."""
    boards, actions = random_boards()
    mirrored, answers = mirror_image(boards, actions, 511 if camera else 512)
    real, image = observe(boards), observe(mirrored)
    record_boards(tmp_path / "data", real | {"action": actions}, camera)
    frames, pre, terms = open_ours(tmp_path / "data", tmp_path, mirror=True, **settings)
    count = len(boards)
    assert (frames.num_recorded, frames.num_frames) == (count, 2 * count)

    plain, seen = frames.batch(torch.arange(count)), frames.batch(torch.arange(count, 2 * count))
    unmirrored = open_ours(tmp_path / "data", tmp_path)[0]
    assert frames.fingerprint != unmirrored.fingerprint
    for name, tensor in unmirrored.batch(torch.arange(count)).items():
        assert torch.equal(tensor, plain[name]), name
    expected = normalised(pre, image | {"action": answers})
    for name in set(terms.input_features) - {"observation.image"}:
        torch.testing.assert_close(seen[name], expected[name], atol=1e-4, rtol=0)
    if camera:
        beside = normalised(pre, observe(mirror_image(boards, actions, 512)[0]))["observation.image"]
        off, nearly, unlike = (
            (seen["observation.image"] - other).abs().mean()
            for other in (expected["observation.image"], beside, plain["observation.image"])
        )
        assert off < 0.9 * nearly and off < 0.2 * unlike  # the goal is where it was, half a pixel away
    assert torch.equal(seen["action_is_pad"], plain["action_is_pad"])
    half = count // 2  # the first of two episodes
    steps = (torch.arange(half)[:, None] + torch.arange(CHUNK)).clamp_max(half - 1)
    torch.testing.assert_close(seen["action"][:half], expected["action"][steps], atol=1e-4, rtol=0)

    mixed = frames.batch(order := torch.tensor([3, count + 3, 5, 2 * count - 1]))
    for name, tensor in mixed.items():
        assert torch.equal(tensor, torch.cat([plain[name], seen[name]])[order]), name


def test_features_of_another_shape_are_refused(datasets, tmp_path):
    """As when a policy that was trained elsewhere goes on here."""
    _, pre, terms = open_ours(datasets["image"], tmp_path)
    config = DatasetConfig(root=datasets["video"])
    message = r"has observation.image of shape \(3, 64, 64\), the policy looks at one of \(3, 16, 16\)"
    with pytest.raises(UserError, match=message):
        Frames(open_dataset(config), terms.input_features, CHUNK, pre, torch.device("cpu"), config, tmp_path)


def normalised(pre, columns):
    return pre({name: torch.from_numpy(array) for name, array in columns.items()})


def random_boards():
    """Boards (12, 5) and actions (12, 2)."""
    rng = np.random.default_rng(0)
    agent, block, actions = rng.uniform([[[50]], [[150]], [[0]]], [[[150]], [[362]], [[511]]], (3, 12, 2))
    return np.concatenate([agent, block, rng.uniform(-np.pi, np.pi, (12, 1))], axis=1), actions.astype("f4")


def mirror_image(boards, actions, total):
    """Across the diagonal x + y = total, written out."""
    agent, block, angle = boards[:, :2], boards[:, 2:4], boards[:, 4:]
    image = np.concatenate([total - agent[:, ::-1], total - block[:, ::-1], np.pi / 2 - angle], axis=1)
    return image, total - actions[:, ::-1]


def observe(boards):
    """What the environment shows of these boards, under LeRobot's names, as a loader gives it."""
    env = PushTVectorEnv(len(boards), pixels=96)
    raw, _ = env.reset(seed=list(range(len(boards))), options={"states": boards})
    return {
        "observation.state": raw["agent_pos"].astype(np.float32),
        "observation.environment_state": raw["keypoints"].reshape(len(boards), 16).astype(np.float32),
        "observation.image": raw["pixels"].transpose(0, 3, 1, 2).astype(np.float32) / 255.0,
    }


def record_boards(root, columns, camera):
    """Two episodes of them, by LeRobot's own API."""
    names = [
        name
        for name in columns
        if name != ("observation.environment_state" if camera else "observation.image")
    ]
    features = {
        name: {"dtype": "float32", "shape": columns[name].shape[1:], "names": None}
        if name != "observation.image"
        else {"dtype": "image", "shape": (96, 96, 3), "names": ["height", "width", "channel"]}
        for name in names
    }
    dataset = LeRobotDataset.create("local/boards", 10, features, root=root, use_videos=False)
    count = len(columns["action"])
    for index in range(count):
        frame = {name: columns[name][index] for name in names}
        if camera:
            frame["observation.image"] = np.round(frame["observation.image"].transpose(1, 2, 0) * 255).astype(
                np.uint8
            )
        dataset.add_frame(frame | {"task": "push the T"})
        if index in (count // 2 - 1, count - 1):
            dataset.save_episode()
    dataset.finalize()


def test_what_exceeds_the_memory_lies_in_a_file_without_a_name(datasets, tmp_path):
    frames, *_ = open_ours(datasets["image"], tmp_path, memory_gb=0.0)
    assert isinstance(frames.pictures["observation.image"], np.memmap)
    assert "0.00 GB in a file beside the run, for dataset.memory_gb is 0" in frames.place()
    assert list(tmp_path.iterdir()) == []


def test_all_cameras_share_the_memory(datasets, tmp_path):
    one_camera = 26 * 3 * 16 * 16 / 1e9
    frames, *_ = open_ours(datasets["image"], tmp_path, memory_gb=one_camera)
    assert "in memory on cpu" in frames.place()
    two = two_cameras(datasets["image"], tmp_path / "two")
    frames, *_ = open_ours(two, tmp_path, memory_gb=one_camera)
    assert len(frames.pictures) == 2 and "in a file beside the run" in frames.place()


def test_a_disk_without_the_room_is_a_sentence(datasets, tmp_path):
    """And not a SIGBUS when a picture is written."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        with pytest.raises(
            UserError, match="the disk has no room for .* of decoded pictures .*File too large"
        ):
            open_ours(datasets["image"], tmp_path, memory_gb=0.0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("num_frames, start", [(26, 0), (26, 10), (24, 0), (5, 0)])
def test_several_processes_share_an_epoch_as_accelerate_has_it(num_frames, start):
    sampler = EpisodeAwareSampler([0], [num_frames], shuffle=True, seed=5)
    for process in range(3):
        loader = DataLoader(range(num_frames), batch_size=4, sampler=sampler)
        theirs = prepare_data_loader(loader, num_processes=3, process_index=process, put_on_device=False)
        sampler.load_state_dict({"epoch": 2, "start_index": start})
        theirs.set_epoch(2)  # accelerate's own count overrules the sampler's
        ours = Order(num_frames, 4, 5, 3, process).epoch(2, start)
        assert [batch.tolist() for batch in ours] == [batch.tolist() for batch in theirs]


@pytest.mark.parametrize("num_processes", [1, 3])
def test_a_resumed_epoch_is_the_rest_of_the_whole(num_processes):
    """Also of the batches that fill up the last round, which repeat the epoch's first ones."""
    for process in range(num_processes):
        order = Order(26, 4, 5, num_processes, process)
        whole = [batch.tolist() for batch in order.epoch(2)]
        for done in range(len(whole)):
            rest = order.epoch(2, done * 4 * num_processes)
            assert [batch.tolist() for batch in rest] == whole[done:]


def test_the_fingerprint_knows_every_number_and_picture(datasets, make_dataset, tmp_path):
    prints = {kind: open_ours(root, tmp_path)[0].fingerprint for kind, root in datasets.items()}
    again = open_ours(make_dataset(tmp_path / "again", pictures=16), tmp_path)[0].fingerprint
    assert again == prints["image"] and len(set(prints.values())) == 3
    assert open_ours(datasets["image"], tmp_path, episodes=2)[0].fingerprint not in prints.values()


def change_action(tables):
    actions = tables["action"].to_pylist()
    actions[7][1] += 1.0
    return tables.set_column(
        tables.column_names.index("action"), "action", pa.array(actions, tables["action"].type)
    )


def change_pixel(tables):
    cells = tables["observation.image"].to_pylist()
    pixels = np.array(Image.open(BytesIO(cells[7]["bytes"])))
    pixels[3, 4, 0] ^= 1
    png = BytesIO()
    Image.fromarray(pixels).save(png, "png")
    cells[7]["bytes"] = png.getvalue()
    cells = pa.array(cells, tables["observation.image"].type)
    return tables.set_column(tables.column_names.index("observation.image"), "observation.image", cells)


@pytest.mark.parametrize(
    "how",
    [
        lambda root: rewrite(root, "data/*/*.parquet", change_action),
        lambda root: rewrite(root, "data/*/*.parquet", change_pixel),
        lambda root: change_stats(root, lambda stats: stats["action"]["std"].__setitem__(0, 9.0)),
    ],
    ids=["an action", "a pixel", "what normalises"],
)
def test_a_change_in_one_place_is_another_fingerprint(datasets, tmp_path, how):
    before = open_ours(datasets["image"], tmp_path)[0].fingerprint
    assert open_ours(damage(datasets["image"], tmp_path, how), tmp_path)[0].fingerprint != before


def test_an_image_policy_does_not_see_the_simulators_state(datasets):
    features = features_of(open_dataset(DatasetConfig(root=datasets["image"])))
    assert set(choose_inputs(features)) == {"observation.image", "observation.state"}
    everything = ("observation.image", "observation.state", "observation.environment_state")
    assert list(choose_inputs(features, everything)) == list(everything)


def damage(root, tmp_path, how):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    how(copy)
    return copy


def change_info(**changes):
    def change(root):
        file = root / "meta" / "info.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def change_stats(root, change):
    stats = json.loads((file := root / "meta" / "stats.json").read_text())
    change(stats)
    file.write_text(json.dumps(stats))


def rewrite(root, pattern, change):
    (file,) = root.glob(pattern)
    table = change(pq.read_table(file))
    file.unlink()
    pq.write_table(table, file)


def two_cameras(root, copy):
    """The same pictures from another camera, of a dataset whose pictures are channels first."""
    shutil.copytree(root, copy)
    name, other = "observation.image", "observation.side"
    rewrite(copy, "data/*/*.parquet", lambda table: table.append_column(other, table[name]))
    info = json.loads((copy / "meta" / "info.json").read_text())
    (height, width, channels), names = info["features"][name]["shape"], info["features"][name]["names"]
    changed = {"shape": [channels, height, width], "names": [names[2], names[0], names[1]]}
    info["features"][other] = info["features"][name] | changed
    change_info(features=info["features"])(copy)
    change_stats(copy, lambda stats: stats.__setitem__(other, stats[name]))
    return copy


def truncate(pattern):
    def cut(root):
        (file, *_) = root.glob(pattern)
        file.write_bytes(file.read_bytes()[:-100])

    return cut


@pytest.mark.parametrize(
    "how, message",
    [
        (shutil.rmtree, "no such folder; collect_dataset.py"),
        (lambda root: shutil.rmtree(root / "meta"), "not the folder of a LeRobot dataset"),
        (lambda root: shutil.rmtree(root / "data"), "damaged"),
        (lambda root: shutil.rmtree(root / "meta" / "episodes"), "cannot be opened"),
        (truncate("data/*/*.parquet"), "damaged"),
        (truncate("meta/episodes/*/*.parquet"), "cannot be opened"),
        (change_info(total_frames=27), "says 3 episodes of 27 frames, its table of episodes has 3 of 26"),
        (change_info(total_episodes=4), "says 4 episodes of 26 frames, its table of episodes has 3 of 26"),
        (
            lambda root: rewrite(root, "data/*/*.parquet", lambda table: table.slice(0, 25)),
            "hold 25 frames, its description says 26",
        ),
        (
            lambda root: rewrite(root, "meta/episodes/*/*.parquet", lambda table: table.slice(1)),
            "its table of episodes has 2 of 17",
        ),
        (lambda root: (root / "meta" / "stats.json").unlink(), "no statistics of observation.state, action"),
        (lambda root: change_stats(root, lambda stats: stats.pop("action")), "has no statistics of action"),
        (lambda root: change_stats(root, lambda s: s["action"].pop("std")), "has no statistics of action"),
        (change_info(total_episodes=0, total_frames=0), "is empty"),
        (change_info(fps=30), "has 30 frames per second, PushT has 10"),
    ],
)
def test_a_damaged_dataset_is_refused(datasets, tmp_path, how, message):
    with pytest.raises(UserError, match=message):
        open_ours(damage(datasets["image"], tmp_path, how), tmp_path)


@pytest.mark.parametrize(
    "shape, inputs, message",
    [
        ({"action_size": 3}, (), r"must be of shape \(2,\), PushT's, got \(3,\)"),
        ({"keypoints": False}, (), "has no observation.environment_state, it has"),
        ({}, ("observation.image", "observation.state"), "has no observation.image, it has"),
        ({}, ("observation.environment_state",), "must have observation.state"),
        ({}, ("observation.state", "action"), "ACT cannot look at action"),
    ],
)
def test_a_dataset_without_what_the_policy_wants_is_refused(make_dataset, tmp_path, shape, inputs, message):
    root = make_dataset(tmp_path / "dataset", **shape)
    with pytest.raises(UserError, match=message):
        choose_inputs(features_of(open_dataset(DatasetConfig(root=root))), inputs)
