"""Checks before anything is written: is this a dataset, is it whole, may it be resumed."""

import json
import re
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.compute_stats import DEFAULT_QUANTILES

from common.config import differences, from_dict, to_dict
from common.errors import UserError
from common.lerobot_files import (
    INFO,
    NOTES,
    REPAIR,
    STATS,
    TASKS,
    check_frames,
    check_statistics,
    numbers,
    parquet_files,
    read_episodes,
    read_info,
    read_table,
    reading,
    whole_numbers,
)
from common.untrusted import load_json
from envs.tasks import FORMER
from recording.dataset import Dataset, Notes
from recording.files import NumberedFile, count_frames, foreign_file
from recording.schema import IMAGE, NO_SEED, Recipe

STATISTICS = "min", "max", "mean", "std", *(f"q{int(100 * share):02d}" for share in DEFAULT_QUANTILES)
ADDED_SETTINGS = {"hindsight": False, "task": FORMER}  # what datasets recorded before have that lack them


def stored_recipe(root: Path) -> Recipe | None:
    """The recipe of the dataset at `root`; None where it cannot be read."""
    try:
        return _read_notes(root / NOTES).recipe
    except UserError:
        return None


def check_root(root: Path) -> None:
    """Raise UserError where LeRobot could not open a dataset at this path, which it takes for a pattern."""
    if found := re.search(r"[*?\[\]$]|::", str(root)):
        raise UserError(
            f"{root}: LeRobot opens no dataset whose path has {found[0]} in it; choose another --root, "
            "or rename the folder"
        )
    if len(root.name.encode(errors="surrogateescape")) > 200:  # file systems allow 255
        raise UserError(f"{root.name[:40]}...: the name of a --root must have at most 200 bytes")


def is_dataset(root: Path) -> bool:
    """Whether a folder is a LeRobot dataset of any kind and state, or what is left of one of ours."""
    return (root / INFO).is_file() or (root / NOTES).is_file()


def check_replaceable(root: Path) -> None:
    """Raise UserError where a folder is no dataset by its contents, or holds something else besides."""
    described = ((INFO, ("codebase_version", "features")), (NOTES, ("recipe",)))
    if not any(_has_keys(root / file, keys) for file, keys in described):
        raise UserError(
            f"{root}: not a LeRobot dataset, so --overwrite does not touch it; choose another --root"
        )
    if foreign := foreign_file(root):
        raise UserError(
            f"{root}: holds {foreign}, which is no part of a dataset and would be deleted: move it away, or "
            "choose another --root"
        )


def _has_keys(file: Path, keys: tuple[str, ...]) -> bool:
    """Whether it is a JSON object with these keys."""
    try:
        content = load_json(file)
    except UserError:
        return False
    return all(key in content for key in keys)


def open_recording(root: Path) -> Dataset:
    """Open a dataset that was recorded or imported here.

    Raises:
        UserError: there is none, it is damaged, or it was recorded by something else.
    """
    if not root.exists():
        raise UserError(f"{root}: no such folder, so there is no dataset")
    if not is_dataset(root):
        raise UserError(f"{root}: not a LeRobot dataset, {INFO} is missing; choose another --root")
    if not (root / INFO).is_file():
        raise UserError(f"{root}: damaged: {INFO} is missing; {REPAIR}")
    info = read_info(root)
    notes = root / NOTES
    if not notes.exists():
        raise UserError(
            f"{root}: was not recorded by collect_dataset.py ({NOTES} is missing), so there is nothing to "
            "replay or to resume; choose another --root"
        )
    dataset = Dataset(root, _read_notes(notes))
    return Dataset(root, dataset.notes, *check_whole(dataset, info))


def check_whole(dataset: Dataset, info: dict[str, Any]) -> tuple[int, int]:
    """The numbers of episodes and of frames, if all files agree about them and are what the recipe makes.

    Raises:
        UserError: they do not, or a file is missing or damaged.
    """
    root = dataset.root
    episodes, frames = len(read_episodes(root, info)), sum(_frames(dataset))
    if frames != info["total_frames"]:
        raise UserError(
            f"{root}: damaged: data holds {frames} frames, {INFO} says {info['total_frames']}; {REPAIR}"
        )
    with reading(root / INFO):
        features = {name: feature | {"info": None} for name, feature in info["features"].items()}
        ours = {name: feature | {"info": None} for name, feature in dataset.features.items()}
        _require(info["fps"] == dataset.task.fps, f"{info['fps']} fps instead of {dataset.task.fps}")
        _require(features == json.loads(json.dumps(ours)), f"other features than those of {NOTES}")
    with reading(root / TASKS):
        tasks = [{"task_index": 0, "task": dataset.task.sentence}]
        _require(read_table(root / TASKS).to_pylist() == tasks, "other tasks")
    with reading(root / STATS):
        stats = load_json(root / STATS)
        counts = {name: values["count"] for name, values in stats.items() if name != IMAGE}
        _require(counts == {name: [frames] for name in dataset.features if name != IMAGE}, "other counts")
        shapes = {name: tuple(feature["shape"]) for name, feature in dataset.features.items()}
        shapes |= {IMAGE: (3, 1, 1)} if IMAGE in shapes else {}
        check_statistics(stats, shapes, STATISTICS)
    return episodes, frames


def check_same_recipe(root: Path, saved: Recipe, asked: Recipe) -> None:
    """Raise UserError if a dataset was recorded with another recipe."""
    old, new = asdict(saved), asdict(asked)
    if old["fingerprint"] == new["fingerprint"]:
        new["policy"] = old["policy"]  # the same policy by another path
    if changed := differences(old, new):
        how = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1", "; ".join(changed))  # short fingerprints
        raise UserError(
            f"{root} was recorded otherwise ({how}): use its settings to --resume, or choose another --root"
        )


def check_values(dataset: Dataset) -> None:
    """Raise UserError where a value is not finite, in its place or in its statistics' bounds.

    Such a dataset gets no episodes.
    """
    notes = dataset.notes
    if notes.next_seed < notes.recipe.seed:
        raise UserError(f"{dataset.root / NOTES}: next_seed {notes.next_seed} is before the first seed")
    episodes = read_episodes(dataset.root, read_info(dataset.root))
    with reading(dataset.root / "meta/episodes"):
        latest = whole_numbers(episodes, "seed").max(initial=NO_SEED)
        _require(latest < notes.next_seed, f"seed {latest} is not before next_seed of {NOTES}")
    check_frames(dataset.root, episodes["length"].to_numpy(), dataset.task.fps)
    sizes = {name: f["shape"][0] for name, f in dataset.features.items() if f["dtype"].startswith("float")}
    bounds: dict[str, list[np.ndarray]] = {name: [] for name in sizes}
    for path in parquet_files(dataset.root / "data"):
        with reading(path):
            table = read_table(path, list(sizes))
            for name, size in sizes.items():
                values = numbers(table, name, size).reshape(-1, size)
                _require(bool(np.isfinite(values).all()), f"{name} is not finite everywhere")
                bounds[name] += [values.min(axis=0), values.max(axis=0)]
    with reading(dataset.root / STATS):
        for name, ends in bounds.items():
            found = np.min(ends, axis=0), np.max(ends, axis=0)
            said = dataset.stats[name]["min"], dataset.stats[name]["max"]
            _require(
                np.allclose(found, said, rtol=1e-5, atol=1e-6), f"other min or max of {name} than its data"
            )


def _frames(dataset: Dataset) -> Iterator[int]:
    """Frames in each file of `data`, which `videos` has as many of."""
    for index, path in enumerate(parquet_files(dataset.root / "data")):
        with reading(path):
            rows = pq.read_metadata(path).num_rows
            _require(pq.read_schema(path).equals(dataset.schema), f"other columns than those of {NOTES}")
        if dataset.notes.recipe.video:
            video = dataset.root / NumberedFile(index).video(IMAGE)
            with reading(video):
                found = count_frames(video)
                _require(found == rows, f"{found} frames instead of {rows}")
        yield rows


def _require(true: bool, otherwise: str) -> None:
    if not true:
        raise ValueError(otherwise)


def _read_notes(path: Path) -> Notes:
    content = load_json(path)
    if isinstance(content.get("recipe"), dict):
        recipe = {Recipe.RENAMED.get(name, name): value for name, value in content["recipe"].items()}
        content["recipe"] = ADDED_SETTINGS | recipe
        notes = from_dict(Notes, content, f"{path}: ")
        if to_dict(notes) == content:  # nothing is missing
            return notes
    raise UserError(f"{path}: not written by this collect_dataset.py; {REPAIR}")
