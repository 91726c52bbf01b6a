"""Second ways to tell what an input says: whatever is accepted must agree with them."""

import json
import math
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from inputs import Case, read_frames, read_tables

from common.config import to_dict


class Wrong(Exception):
    """An input was taken for something that it does not say."""


def flatten(content: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(content, dict) or not content:
        return {prefix[:-1]: content}
    parts = [flatten(value, f"{prefix}{str(key).replace('-', '_')}.") for key, value in content.items()]
    if len(flat := {key: value for part in parts for key, value in part.items()}) < sum(map(len, parts)):
        raise Wrong(f"a setting below {prefix or 'the top'} is given twice, once with - for _")
    return flat


def check_says(config: Any, content: dict[str, Any], *ignored: str) -> None:
    """The configuration has the settings of a file, where 1e-4 may be text and a list a tuple."""

    def same(value: Any, said: Any) -> bool:
        if isinstance(value, list) and isinstance(said, list | tuple):
            return len(value) == len(said) and all(map(same, value, said))
        if not isinstance(value, bool) and isinstance(value, float | int) and isinstance(said, str):
            return value == float(said)
        if isinstance(value, float) and type(said) is int:
            return value == float(said)
        if isinstance(said, str) and str(value) in (said, os.path.expanduser(said)):  # noqa: PTH111  of no path
            return True
        return value == said and isinstance(value, bool) == isinstance(said, bool)

    have = flatten(to_dict(config))
    for key, value in flatten(content).items():
        if key in have and key not in ignored and not same(have[key], value):
            raise Wrong(f"{key} is {have[key]!r:.50}, given was {value!r:.50}")


UNREAD = {"episodes", "pc_success", "avg_max_reward", "success_ci95"}  # of an evaluation, by a training
UNREAD |= {"demonstrations", "frozen", "trains_batch_norms", "task"}  # which older files do not have
SIGNED = "reward", "return"


def check_plausible(new: Any, old: Any, name: str = "") -> None:
    """Nothing is missing, and numbers have the type and sign that they had, and are not absurd."""
    if isinstance(old, dict) and isinstance(new, dict):
        if missing := old.keys() - new.keys() - UNREAD:
            raise Wrong(f"{name} without {min(missing)} was accepted")
        for key in old.keys() - UNREAD:
            check_plausible(new[key], old[key], f"{name}.{key}")
    elif isinstance(old, list) and isinstance(new, list):
        for value, before in zip(new, old, strict=False):
            check_plausible(value, before, f"{name}[]")
    elif old is not None and new != old and not _may_be(new, old, name):
        raise Wrong(f"{name} = {new!r:.50} instead of {old!r:.50} was accepted")


def _may_be(new: Any, old: Any, name: str) -> bool:
    if new is None:
        return name.startswith((".best.", ".evaluation."))  # where there was nothing to measure
    if str(new) == str(old):
        return True
    if isinstance(new, str) and type(old) in (int, float):
        with suppress(ValueError):
            new = type(old)(new)  # "7" for 7
    if type(new) is not type(old) and not (isinstance(old, float) and type(new) is int):
        return False
    if not isinstance(old, int | float):
        return False
    absurd = not math.isfinite(new) or abs(new) > 1e12 * (1 + abs(old))
    return not absurd and (new >= 0 or old < 0 or any(word in name for word in SIGNED))


def check_changed(case: Case, *ignored: str, now: Path | None = None) -> None:
    """The changed file, or what became of it, if it is JSON, is plausible but for what does not matter."""
    if case.changed.endswith(".json") and (case.said or now):
        text = now.read_text() if now else case.said.decode("utf-8-sig")
        old = json.loads((case.valid / case.changed).read_bytes())
        for name in ignored:
            old.pop(name, None)
        check_plausible(json.loads(text), old)


def check_dataset(root: Path) -> None:
    """All files of a dataset agree about its episodes, by pandas."""
    info, frames = json.loads((root / "meta/info.json").read_text()), read_frames(root)
    episodes = read_tables(root / "meta/episodes")
    sizes = frames.groupby("episode_index").size().to_numpy()
    ends = np.cumsum(sizes)
    agrees = {
        "info.json": (info["total_episodes"], info["total_frames"]) == (len(sizes), len(frames)),
        "codebase_version": info["codebase_version"] == "v3.0",
        "index": list(frames["index"]) == list(range(len(frames))),
        "episode_index": list(frames["episode_index"]) == list(np.repeat(range(len(sizes)), sizes)),
        "frame_index": list(frames["frame_index"]) == [i for size in sizes for i in range(size)],
        "length": list(episodes["length"]) == list(sizes),
        "dataset_from_index": list(episodes["dataset_from_index"]) == [0, *ends[:-1]],
        "dataset_to_index": list(episodes["dataset_to_index"]) == list(ends),
        "timestamp": np.allclose(frames["timestamp"], frames["frame_index"] / info["fps"], atol=1e-3),
        "action": np.isfinite(np.stack(frames["action"])).all(),
    }
    if wrong := [name for name, true in agrees.items() if not true]:
        raise Wrong(f"a dataset was accepted whose {', '.join(wrong)} is wrong")
