"""A dataset's card: how it was made, what is in it, and what it looks like.

The pictures are drawn from the stored simulator states, so that there are some whatever was recorded.
"""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from lerobot.datasets.io_utils import load_info
from lerobot.datasets.utils import create_lerobot_dataset_card
from matplotlib.figure import Figure
from PIL import Image

from common.video import write_video
from envs.films import mosaic
from envs.plots import SUCCESS, save_figure
from envs.pusht.observations import FPS
from envs.pusht.renderer import Renderer
from envs.rollout import Episode
from envs.summary import wilson_interval
from recording.dataset import Dataset, Notes
from recording.schema import IMPORT, Recipe

SHOWN, SIDE = 9, 160  # episodes in the film, pixels of each
MOMENTS = 8  # of an episode on the contact sheet
SIMULATOR = "Recorded in the simulator of [gym-pusht](https://github.com/huggingface/gym-pusht)."
PEOPLE = (
    "Recorded by people for [Diffusion Policy](https://diffusion-policy.cs.columbia.edu) (Chi et al. 2023; "
    "MIT License, (c) 2023 Columbia Artificial Intelligence and Robotics Lab)"
)
AS_RECORDED = "; rewards were computed from the recorded states."
HINDSIGHT = (
    ". Every segment of their demonstrations was moved to where its T ends on the goal and played there in "
    "the simulator, which the states and rewards are of; those that succeed were kept, up to their success."
)
CITATION = """@inproceedings{chi2023diffusionpolicy,
  title={Diffusion Policy: Visuomotor Policy Learning via Action Diffusion},
  author={Chi, Cheng and Feng, Siyuan and Du, Yilun and Xu, Zhenjia and Cousineau, Eric
    and Burchfiel, Benjamin and Song, Shuran},
  booktitle={Proceedings of Robotics: Science and Systems (RSS)},
  year={2023}
}"""


def write_card(folder: Path, dataset: Dataset, repo_id: str) -> None:
    """Write README.md and `card/` into the folder of a dataset."""
    rows = _read(folder / "meta/episodes", ["length", "seed", "success", "max_coverage"])
    frames = _read(folder / "data", ["episode_index", "action", "sim.state"])
    shown = np.unique(np.linspace(0, len(rows["length"]) - 1, SHOWN).astype(int))
    episodes = [_drawn(frames, number, rows["success"][number]) for number in shown]
    (folder / "card").mkdir()
    Image.fromarray(_contact_sheet(episodes)).save(folder / "card/contact_sheet.png")
    write_video(folder / "card/episodes.mp4", mosaic(episodes), FPS)
    _plot_lengths(folder / "card/lengths.png", rows["length"])
    card = create_lerobot_dataset_card(
        tags=["pusht"],
        dataset_info=load_info(folder),
        license="mit",
        repo_id=repo_id,
        url="https://github.com/huggingface/gym-pusht",
        paper="https://arxiv.org/abs/2303.04137 (Chi et al. 2023, Diffusion Policy), where the task is from",
        citation_bibtex=CITATION,
        dataset_description=_description(dataset, rows, frames),
    )
    card.save(folder / "README.md")


def _description(dataset: Dataset, rows: dict, frames: dict) -> str:
    notes, lengths = dataset.notes, rows["length"]
    numbers = {
        "episodes": f"{len(lengths):,}, of which {int(rows['success'].sum()):,} end with the T on its place",
        "frames": f"{lengths.sum():,} at {FPS} Hz, {lengths.min()} to {lengths.max()} an episode, "
        f"{lengths.mean():.1f} on average",
        "policy": _player(notes),
        "starts": _starts(rows["seed"], notes.recipe.hindsight),
        "target moves": _moves(frames),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in numbers.items())
    commands = "\n".join(notes.commands)
    settings = ", ".join(
        f"{name} {value}" for name, value in asdict(notes.recipe).items() if name != "policy"
    )
    return f"""PushT: an agent pushes a T onto its place. {_origin(notes.recipe)}
`collect_dataset.py --verify`, of the recorder, plays it again and compares.

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

{_action_table(frames["action"])}

Frame t shows the board before action t; `next.*` is what the action led to. An action is the place, in pixels
of a 512 x 512 board, to which the agent is sent. `sim.state` is the simulator before the action (agent x, y,
block x, y, angle, agent velocity): enough to draw a picture of any size, and not an input of policies.
`meta/episodes` also has the seed, success and largest coverage of each episode."""


def _origin(recipe: Recipe) -> str:
    if recipe.policy != IMPORT:
        return SIMULATOR
    return PEOPLE + (HINDSIGHT if recipe.hindsight else AS_RECORDED)


def _player(notes: Notes) -> str:
    if notes.recipe.hindsight:
        return f"people; of {notes.attempts:,} segments {notes.successes:,} succeed where they were moved to"
    if notes.recipe.policy == IMPORT:
        return "people"
    return f"`{notes.recipe.policy}`, {_success_rate(notes)}"


def _success_rate(notes: Notes) -> str:
    successes, attempts, hold = notes.successes, notes.attempts, notes.recipe.hold
    low, high = (100 * bound for bound in wilson_interval(successes, attempts))
    share = f"{100 * successes / attempts:.1f} % ({low:.1f} to {high:.1f})"
    held = f" and kept it there for {hold} steps" if hold else ""
    return f"put the T on its place{held} in {successes:,} of {attempts:,} episodes played: {share}"


def _starts(seeds: np.ndarray, moved: bool) -> str:
    if seeds.min() < 0:
        return "moved" if moved else "as recorded"
    return f"seeds {seeds.min()} to {seeds.max()} of `PushT-v0`"


def _moves(frames: dict[str, np.ndarray]) -> str:
    same = np.diff(frames["episode_index"]) == 0
    moves = np.linalg.norm(np.diff(frames["action"], axis=0), axis=1)[same]
    if not len(moves):
        return "-"
    return f"{moves.mean():.1f} px per step, 99th percentile {np.percentile(moves, 99):.1f} px"


def _action_table(actions: np.ndarray) -> str:
    """Of all actions (N, 2): LeRobot's `stats.json` has means of the episodes' quantiles."""
    shares = {"min": 0.0, "q01": 0.01, "q50": 0.5, "q99": 0.99, "max": 1.0}
    columns = dict(zip(shares, np.quantile(actions, list(shares.values()), axis=0), strict=True))
    columns |= {"mean": actions.mean(axis=0), "std": actions.std(axis=0)}
    lines = [f"| action | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    for i, axis in enumerate("xy"):
        lines.append(f"| {axis} | " + " | ".join(f"{values[i]:.1f}" for values in columns.values()) + " |")
    return "\n".join(lines)


def _drawn(frames: dict[str, np.ndarray], number: int, success: bool) -> Episode:
    """An episode with pictures; its last action leads to a state that is not stored, so it is left out."""
    states = frames["sim.state"][frames["episode_index"] == number]
    renderer = Renderer(SIDE, SIDE)
    pictures = np.stack([renderer.draw(state[:2], state[2:5]) for state in states])
    steps = len(states) - 1
    nothing = np.zeros((steps, 2)), np.zeros(steps), np.zeros(steps + 1)
    return Episode(number, {}, *nothing, success=bool(success), frames=pictures)


def _contact_sheet(episodes: Sequence[Episode]) -> np.ndarray:
    """A row of pictures for each episode, from its start to its end."""
    moments = [np.linspace(0, len(episode), MOMENTS).astype(int) for episode in episodes]
    rows = [np.concatenate(e.frames[when], axis=1) for e, when in zip(episodes, moments, strict=True)]
    return np.concatenate(rows)


def _plot_lengths(path: Path, lengths: np.ndarray) -> None:
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    axes = figure.subplots()
    width = 1 + int(np.ptp(lengths)) // 40  # in whole frames, so that no bar has more lengths than another
    axes.hist(lengths, bins=np.arange(lengths.min(), lengths.max() + width + 1, width) - 0.5, color=SUCCESS)
    axes.set(xlabel="frames of an episode (10 per second)", ylabel="episodes")
    save_figure(figure, path)


def _read(folder: Path, names: list[str]) -> dict[str, Any]:
    """Columns of all Parquet files below a folder, as arrays."""
    tables = [pq.read_table(path, columns=names) for path in sorted(folder.rglob("*.parquet"))]
    return {name: np.concatenate([np.array(table[name].to_pylist()) for table in tables]) for name in names}
