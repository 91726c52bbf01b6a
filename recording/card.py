"""A dataset's card: how it was recorded, what is in it, and what it looks like.

Its pictures are drawn from the stored simulator states, so that datasets without pictures have some, too; of
a simulator whose state cannot be stored they are the recorded ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from lerobot.datasets.io_utils import load_info
from lerobot.datasets.utils import create_lerobot_dataset_card
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from common.errors import printable
from common.lerobot_files import parquet_files, read_table
from common.untrusted import write_text
from common.video import write_video
from envs.films import mosaic
from envs.interfaces import Episode
from envs.plots import SUCCESS, save_figure
from envs.recording import Recordable
from envs.summary import wilson_interval
from recording.dataset import README, Dataset, Notes, is_edited, signed
from recording.schema import IMAGE, IMPORT, NO_SEED
from recording.stored import columns, stored_episodes

EPISODES_SHOWN, PICTURE_PX = 9, 160
MOMENTS_SHOWN = 8  # of an episode on the contact sheet


def write_card(folder: Path, dataset: Dataset, repo_id: str) -> None:
    """Write README.md, unless it was edited, and `card/` into the folder of a dataset."""
    task, texts = dataset.task, dataset.task.recording.card
    rows = _read(folder / "meta/episodes", ["length", "seed", "success"])
    vectors = ["action", *task.recording.simulator]
    frames = _read(folder / "data", ["episode_index", *vectors])
    frames |= {name: frames[name].reshape(len(frames[name]), -1) for name in vectors}
    shown = np.unique(np.linspace(0, len(rows["length"]) - 1, EPISODES_SHOWN).astype(int))
    pictures = _drawn(task, frames, shown) if task.recording.simulator else _recorded(dataset, shown)
    episodes = [_episode(frames, number, rows["success"][number], next(pictures)) for number in shown]
    if (folder / "card").is_symlink():  # what it leads to is not ours
        (folder / "card").unlink()
    (folder / "card").mkdir(exist_ok=True)
    Image.fromarray(_contact_sheet(episodes)).save(folder / "card/contact_sheet.png")
    write_video(folder / "card/episodes.mp4", mosaic(episodes), task.fps)
    _plot_lengths(folder / "card/lengths.png", rows["length"], task.fps)
    card = create_lerobot_dataset_card(
        tags=list(texts.tags),
        dataset_info=load_info(folder),
        license=texts.license,
        repo_id=repo_id,
        url=texts.url,
        paper=texts.paper,
        citation_bibtex=texts.citation,
        dataset_description=_description(dataset, rows, frames),
    )
    if not is_edited(folder / README):
        write_text(folder / README, signed(str(card)))


def _description(dataset: Dataset, rows: dict, frames: dict) -> str:
    task, notes, lengths = dataset.task, dataset.notes, rows["length"]
    texts = task.recording.card
    numbers = {
        "episodes": f"{len(lengths):,}, of which {int(rows['success'].sum()):,} {texts.final_success}",
        "frames": f"{lengths.sum():,} at {task.fps} Hz, {lengths.min()} to {lengths.max()} an episode, "
        f"{lengths.mean():.1f} on average",
        "policy": _policy(task, notes),
        "starts": _starts(task, rows["seed"], notes.recipe.hindsight),
        texts.actions: _moves(task, frames),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in numbers.items())
    commands = "\n".join(printable(command).replace("`" * 3, "'" * 3) for command in notes.commands)
    settings = ", ".join(
        f"{name} {value}" for name, value in asdict(notes.recipe).items() if name not in ("policy", "task")
    )
    return f"""{texts.task} {_origin(dataset)}
`collect_dataset.py --verify` replays it and compares.

![Episodes from left to right](card/contact_sheet.png)

[The same episodes as a video](card/episodes.mp4)

| | |
|---|---|
{table}

```
{commands}
```

Settings: {settings}.

![How long the episodes are](card/lengths.png)

{_action_table(frames["action"], texts.action_axes)}

Frame t is the moment before action t; `next.*` is what the action led to. {texts.columns}
`meta/episodes` also has the seed, success and largest {task.progress_name} of each episode."""


def _origin(dataset: Dataset) -> str:
    recipe, texts = dataset.notes.recipe, dataset.task.recording.card
    if recipe.policy != IMPORT:
        return texts.simulator
    return texts.demonstrations + (texts.hindsight if recipe.hindsight else texts.as_recorded)


def _policy(task: Recordable, notes: Notes) -> str:
    if notes.recipe.hindsight:
        return f"people; of {notes.attempts:,} segments {notes.successes:,} succeed where they were moved to"
    if notes.recipe.policy == IMPORT:
        return "people"
    return f"`{notes.recipe.policy}`, {_success_rate(task, notes)}"


def _success_rate(task: Recordable, notes: Notes) -> str:
    successes, attempts, hold = notes.successes, notes.attempts, notes.recipe.hold
    low, high = (100 * bound for bound in wilson_interval(successes, attempts))
    share = f"{100 * successes / attempts:.1f} % ({low:.1f} to {high:.1f})"
    held = f" and stayed successful for {hold} steps" if hold else ""
    success = task.recording.card.success
    return f"{success}{held} in {successes:,} of {attempts:,} episodes played: {share}"


def _starts(task: Recordable, seeds: np.ndarray, moved: bool) -> str:
    if seeds.min() == NO_SEED:
        return "moved" if moved else "as recorded"
    return f"seeds {seeds.min()} to {seeds.max()} of {task.recording.card.starts}"


def _moves(task: Recordable, frames: dict[str, np.ndarray]) -> str:
    same_episode = np.diff(frames["episode_index"]) == 0
    moves = np.linalg.norm(np.diff(frames["action"], axis=0), axis=1)[same_episode]
    if not len(moves):
        return "-"
    unit = task.recording.unit
    return f"{moves.mean():.3g} {unit} per step, 99th percentile {np.percentile(moves, 99):.3g} {unit}"


def _action_table(actions: np.ndarray, axes: Sequence[str]) -> str:
    """Of all actions (N, A): LeRobot's `stats.json` has means of the episodes' quantiles."""
    shares = {"min": 0.0, "q01": 0.01, "q50": 0.5, "q99": 0.99, "max": 1.0}
    columns = dict(zip(shares, np.quantile(actions, list(shares.values()), axis=0), strict=True))
    columns |= {"mean": actions.mean(axis=0), "std": actions.std(axis=0)}
    lines = [f"| action | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for i, axis in enumerate(axes):
        lines.append(f"| {axis} | " + " | ".join(f"{values[i]:.4g}" for values in columns.values()) + " |")
    return "\n".join(lines)


def _drawn(task: Recordable, frames: dict[str, np.ndarray], shown: np.ndarray) -> Iterator[np.ndarray]:
    """Pictures (T, PICTURE_PX, PICTURE_PX, 3) uint8 RGB of each of these episodes."""
    for number in shown:
        yield task.recording.draw(frames["sim.state"][frames["episode_index"] == number], PICTURE_PX)


def _recorded(dataset: Dataset, shown: np.ndarray) -> Iterator[np.ndarray]:
    """Those that were recorded, as `_drawn`."""
    for row, table in stored_episodes(dataset):
        if row["episode_index"] in shown:
            pictures = columns(dataset, row, table)[IMAGE]
            yield np.stack([cv2.resize(each, (PICTURE_PX, PICTURE_PX)) for each in pictures])


def _episode(frames: dict[str, np.ndarray], number: int, success: bool, pictures: np.ndarray) -> Episode:
    """An episode without its last action, which leads to a state that is not stored."""
    steps = len(pictures) - 1
    actions = frames["action"][frames["episode_index"] == number][:steps]
    return Episode(number, {}, actions, np.zeros(steps), success=bool(success), frames=pictures)


def _contact_sheet(episodes: Sequence[Episode]) -> np.ndarray:
    """A row of pictures for each episode, from its start to its end."""
    moments = [np.linspace(0, len(episode), MOMENTS_SHOWN).astype(int) for episode in episodes]
    rows = [
        np.concatenate(episode.frames[when], axis=1)
        for episode, when in zip(episodes, moments, strict=True)
        if episode.frames is not None
    ]
    return np.concatenate(rows)


def _plot_lengths(path: Path, lengths: np.ndarray, fps: int) -> None:
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    width = 1 + int(np.ptp(lengths)) // 40  # whole frames: all bars count equally many lengths
    axes.hist(lengths, bins=np.arange(lengths.min(), lengths.max() + width + 1, width) - 0.5, color=SUCCESS)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=f"frames of an episode ({fps} per second)", ylabel="episodes")
    save_figure(figure, path)


def _read(folder: Path, names: list[str]) -> dict[str, Any]:
    """Columns of all Parquet files below a folder, as arrays."""
    tables = [read_table(path, names) for path in parquet_files(folder)]
    return {name: np.concatenate([np.array(table[name].to_pylist()) for table in tables]) for name in names}
