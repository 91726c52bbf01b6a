"""Datasets opened as a training opens them, and what may have happened to them before."""

import json
import shutil

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from lerobot.policies import make_pre_post_processors

from act.dataset import DatasetConfig, features_of, open_dataset
from act.frames import Frames
from act.kinds.act import PolicyConfig, act_config
from envs.pusht.task import PushT

CHUNK = 7
TASK = PushT()
POLICY = PolicyConfig(chunk_size=CHUNK, n_action_steps=2)


def open_ours(root, folder, **settings):
    config = DatasetConfig(root=root, **settings)
    meta = open_dataset(config, TASK)
    terms = act_config(POLICY, features_of(meta), device="cpu")
    pre, _ = make_pre_post_processors(terms, dataset_stats=meta.stats)
    frames = Frames(meta, terms, pre, torch.device("cpu"), config, folder, TASK)
    return frames, pre, terms


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


def change_column(pattern, name, change):
    """Rewrite a column of a Parquet file by a function of its list of values; Arrow chooses the new type."""

    def changed(root):
        def set_column(table):
            values = change(table[name].to_pylist())
            return table.set_column(table.column_names.index(name), name, pa.array(values))

        rewrite(root, pattern, set_column)

    return changed
