"""Is this a dataset, is it whole, may it be gone on with: looked at before anything is written."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from common.checkpoint import load_json
from common.config import differences, from_dict
from common.errors import UserError
from recording.dataset import NOTES, Dataset, Notes
from recording.schema import Recipe

REPAIR = "record it anew with --overwrite, or take a copy from elsewhere"


def is_dataset(root: Path) -> bool:
    """Whether a folder is a LeRobot dataset, of whatever kind and state."""
    return (root / "meta" / "info.json").is_file()


def open_dataset(root: Path) -> Dataset:
    """Open a dataset that was recorded or imported here.

    Raises:
        UserError: there is none, it is damaged, or it came about otherwise.
    """
    if not root.exists():
        raise UserError(
            f"{root}: no such folder; without --resume, collect_dataset.py begins a dataset there"
        )
    if not is_dataset(root):
        raise UserError(f"{root}: not a LeRobot dataset, meta/info.json is missing; choose another --root")
    info = load_json(root / "meta" / "info.json")
    version = info.get("codebase_version") if isinstance(info, dict) else None
    if version != "v3.0":
        raise UserError(f"{root}: a dataset of version {version}, not v3.0; LeRobot has a converter")
    episodes, frames = check_whole(root, info)
    notes = root / NOTES
    if not notes.exists():
        raise UserError(
            f"{root}: was not recorded by collect_dataset.py ({NOTES} is missing), so there is nothing to "
            "replay or to go on with; choose another --root"
        )
    return Dataset(root, _read_notes(notes), episodes, frames)


def check_whole(root: Path, info: dict[str, Any]) -> tuple[int, int]:
    """The numbers of episodes and of frames, if `meta/` and `data/` agree about them.

    Raises:
        UserError: they do not, or a file is damaged.
    """
    lengths, frames = [], 0
    for path in sorted((root / "meta/episodes").rglob("*.parquet")):
        lengths += _read(path, lambda file: pq.read_table(file, columns=["length"]))["length"].to_pylist()
    for path in sorted((root / "data").rglob("*.parquet")):
        frames += _read(path, pq.read_metadata).num_rows
    told = info.get("total_episodes"), info.get("total_frames")
    if told != (len(lengths), sum(lengths)) or frames != sum(lengths):
        raise UserError(
            f"{root}: damaged: meta/info.json tells of {told[0]} episodes and {told[1]} frames, "
            f"meta/episodes of {len(lengths)} and {sum(lengths)}, and data holds {frames} frames; {REPAIR}"
        )
    return len(lengths), frames


def check_same_recipe(root: Path, saved: Recipe, asked: Recipe) -> None:
    """Raise UserError if a dataset cannot be gone on with in another way than it was begun."""
    old, new = asdict(saved), asdict(asked)
    if old["fingerprint"] == new["fingerprint"]:
        old.pop("policy"), new.pop("policy")  # the same policy by another path
    if changed := differences(old, new):
        raise UserError(
            f"{root} was recorded otherwise ({'; '.join(changed)}): ask for the same to --resume, or choose "
            "another --root"
        )


def _read_notes(path: Path) -> Notes:
    content = load_json(path)
    try:
        recipe = from_dict(Recipe, content.pop("recipe"), f"{path}: ")
        return Notes(recipe=recipe, **content | {"commands": tuple(content["commands"])})
    except (AttributeError, KeyError, TypeError):
        raise UserError(f"{path}: not written by this collect_dataset.py; {REPAIR}") from None


def _read(path: Path, reader: Callable[[Path], Any]) -> Any:
    try:
        return reader(path)
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"{path}: damaged ({str(error).splitlines()[0]}), as when a recorder is killed before it closes "
            f"its files; {REPAIR}"
        ) from None
