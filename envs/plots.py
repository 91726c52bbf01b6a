"""Figures of episodes for tasks without their own, and the style of all figures."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.text import Text

from common.untrusted import new_file
from envs.interfaces import Episode

SUCCESS, FAILURE = "#2f6db5", "#e2711d"  # blue and orange, distinct for every eye
INK, FAINT, TRACK = "#22262b", "#8d96a3", "#e8ebef"


def plot_returns(path: Path, episodes: Sequence[Episode], title: str) -> None:
    """Draw the return of every episode over its steps, failures in orange.

    Args:
        path: of the PNG.
        episodes: any number; a thousand stay readable.
        title: two lines at most.
    """
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for episode in episodes:
        alpha = np.clip(6 / (len(episodes) + 1) ** 0.7, 0.05, 0.8)  # fainter the more there are
        color = FAILURE if episode.success is False else SUCCESS
        axes.plot(np.cumsum([0.0, *episode.rewards]), color=color, linewidth=0.8, alpha=alpha)
    axes.set(title=title, xlabel="environment step", ylabel="return")
    save_figure(figure, path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, its axes in this repository's style."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors=INK, labelsize=9)
        axes.grid(color=TRACK, linewidth=0.8)
        axes.set_axisbelow(True)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Names are no formulas, and a `matplotlibrc` in the working directory starts no LaTeX.
    for text in figure.findobj(Text):
        text.set(usetex=False, parse_math=False)
    with new_file(path, "wb") as file, rc_context({"text.usetex": False}):
        figure.savefig(file, format="png", dpi=150)
