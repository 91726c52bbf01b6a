"""Batches against LeRobot's own dataset, sampler, loader and preprocessor."""

import resource
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
import torch
from accelerate.data_loader import prepare_data_loader
from lerobot.configs.default import DatasetConfig as LeRobotDatasetConfig
from lerobot.configs.train import TrainPipelineConfig
from lerobot.datasets.factory import make_dataset as open_lerobots
from lerobot.datasets.sampler import EpisodeAwareSampler
from lerobot.policies import make_pre_post_processors
from PIL import Image
from torch.utils.data import DataLoader

from act.sampler import Sampler
from common.errors import UserError
from tests.act.changed import change_stats, damage, open_ours, rewrite, two_cameras


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


@pytest.mark.slow
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
    sampler = Sampler(frames.num_frames, 4, seed=3)
    ours = [frames.batch(indices) for epoch in range(2) for indices in sampler.epoch(epoch)]
    theirs = list(lerobots_batches(datasets[kind], terms, 2, 4, 3, episodes))
    assert len(ours) == len(theirs) and any(len(batch["action"]) < 4 for batch in ours)
    for our, their in zip(ours, theirs, strict=True):
        assert set(our) == {*terms.input_features, "action", "action_is_pad"}
        for name, tensor in our.items():
            assert tensor.dtype == their[name].dtype and torch.equal(tensor, their[name]), name


@pytest.mark.parametrize("mirror", [False, True])
def test_with_a_stride_samples_begin_at_every_so_many_th_frame_of_an_episode(datasets, tmp_path, mirror):
    frames, *_ = open_ours(datasets["state"], tmp_path, mirror=mirror, stride=4)
    whole, *_ = open_ours(datasets["state"], tmp_path, mirror=mirror)
    starts = [at + i for at, length in ((0, 9), (9, 5), (14, 12)) for i in range(0, length, 4)]
    starts += [26 + i for i in starts] if mirror else []
    assert (frames.num_samples, whole.num_samples) == (len(starts), whole.num_frames)
    assert frames.fingerprint != whole.fingerprint
    for name, tensor in whole.batch(torch.tensor(starts)).items():
        assert torch.equal(frames.batch(torch.arange(len(starts)))[name], tensor), name
    assert sum(len(batch["action"]) for batch in frames.samples()) == len(starts)


def test_a_stride_that_leaves_one_sample_of_every_episode_is_refused(datasets, tmp_path):
    with pytest.raises(UserError, match="dataset.stride must be below 12, the frames of the longest episode"):
        open_ours(datasets["state"], tmp_path, stride=12)


@pytest.mark.slow
def test_what_exceeds_the_memory_lies_in_a_file_without_a_name(datasets, tmp_path):
    frames, *_ = open_ours(datasets["image"], tmp_path, memory_gb=0.0)
    assert isinstance(frames.pictures["observation.image"], np.memmap)
    assert "0.00 GB in a file beside the run, because dataset.memory_gb is 0" in frames.place()
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
        ours = Sampler(num_frames, 4, 5, 3, process).epoch(2, start)
        assert [batch.tolist() for batch in ours] == [batch.tolist() for batch in theirs]


@pytest.mark.parametrize("num_processes", [1, 3])
def test_a_resumed_epoch_is_the_rest_of_the_whole(num_processes):
    """Also of the batches that fill up the last round, which repeat the epoch's first ones."""
    for process in range(num_processes):
        sampler = Sampler(26, 4, 5, num_processes, process)
        whole = [batch.tolist() for batch in sampler.epoch(2)]
        for done in range(len(whole)):
            rest = sampler.epoch(2, done * 4 * num_processes)
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


@pytest.mark.parametrize("factor", [1e3, 0.5])
def test_statistics_of_other_values_are_refused(datasets, tmp_path, factor):
    def scale(stats):
        for name, values in stats["action"].items():
            stats["action"][name] = (factor * np.array(values)).tolist()

    root = damage(datasets["state"], tmp_path, lambda root: change_stats(root, scale))
    with pytest.raises(UserError, match="action is not between its min and max"):
        open_ours(root, tmp_path)
