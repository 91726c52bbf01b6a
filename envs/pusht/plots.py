"""What PushT's episodes look like: their coverage over time, and where those started that were solved."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Polygon

from envs.interfaces import Episode
from envs.plots import FAILURE, INK, SUCCESS, save_figure
from envs.pusht.observations import BOARD_PX, SUCCESS_COVERAGE

GOAL = "#90ee90"  # as gym-pusht draws it


def plot_coverage(path: Path, episodes: Sequence[Episode], title: str) -> None:
    """Draw the coverage of every episode over its steps, and which share was solved by when.

    Args:
        path: of the PNG.
        episodes: any number; a thousand stay readable.
        title: two lines at most.
    """
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    coverage, solved = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    steps = np.arange(max(len(episode) for episode in episodes) + 1)
    for layer, success in ((2, True), (3, False)):
        lines = [np.column_stack([steps[: len(e) + 1], e.progress]) for e in episodes if e.success == success]
        coverage.add_collection(
            LineCollection(
                lines,
                label=f"{'success' if success else 'failure'} ({len(lines)})",
                colors=SUCCESS if success else FAILURE,
                alpha=np.clip(6 / (len(lines) + 1) ** 0.7, 0.05, 0.8),  # fainter the more there are
                linewidths=0.8,
                zorder=layer,
            )
        )
    held = [np.pad(episode.progress, (0, len(steps) - 1 - len(episode)), mode="edge") for episode in episodes]
    median, label = np.median(held, axis=0), "median (ended episodes keep their last)"
    coverage.plot(steps, median, color=INK, linewidth=2, zorder=4, label=label)
    dashes, label = (0, (4, 3)), f"success threshold, {SUCCESS_COVERAGE}"
    coverage.axhline(SUCCESS_COVERAGE, color=INK, linewidth=0.8, linestyle=dashes, zorder=5, label=label)
    coverage.set(ylabel="coverage of the goal", ylim=(0, 1.01), title=title)

    share = [np.mean([e.success is True and len(e) <= int(step) for e in episodes]) for step in steps]
    solved.fill_between(steps, share, step="post", color=SUCCESS, alpha=0.25, linewidth=0)
    solved.step(steps, share, where="post", color=SUCCESS)
    solved.set_xscale("function", functions=(np.sqrt, np.square))  # most happens early, some late
    ticks = [tick for tick in (0, 5, 10, 20, 30, 50, 70, 100, 150, 200, 250, 300) if tick <= steps[-1]]
    solved.set(
        xlabel="environment step (10 per second; square-root scale)", xlim=(0, steps[-1]), xticks=ticks
    )
    solved.set(ylabel="share solved", ylim=(0, 1.02))
    legend = figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    for handle in filter(None, legend.legend_handles):
        handle.set_alpha(1)
    save_figure(figure, path)


def plot_starts(path: Path, episodes: Sequence[Episode], goal_keypoints: np.ndarray, title: str) -> None:
    """Draw a map of where the T stood at the start of each episode, by outcome, failures on top.

    Args:
        path: of the PNG.
        episodes: any number; a thousand stay readable.
        goal_keypoints: (8, 2) pixels, corners of the goal's two rectangles.
        title: two lines at most.
    """
    figure = Figure(figsize=(6.4, 7), layout="constrained")
    board = figure.subplots()
    size = max(0.1, len(episodes) ** -0.5)  # true for one episode; a hundred and more share the board
    for rectangle in np.split(goal_keypoints, 2):
        board.add_patch(Polygon(rectangle, facecolor=GOAL, alpha=0.6, zorder=1))
    for success, color in ((True, SUCCESS), (False, FAILURE)):
        poses = [e.observations["block_pose"][0] for e in episodes if e.success == success]
        width, alpha, order = (1.0, 0.6, 2) if success else (1.8, 1.0, 3)
        lines = [line for pose in poses for line in _small_t(pose, size)]
        label = f"{'success' if success else 'failure'} ({len(poses)})"
        board.add_collection(
            LineCollection(lines, colors=color, alpha=alpha, linewidths=width, zorder=order, label=label)
        )
    ticks = range(0, int(BOARD_PX) + 1, 128)
    board.set(title=title, xlabel="x (pixels)", xlim=(0, BOARD_PX), xticks=ticks)
    board.set(aspect="equal", ylabel="y (pixels)", ylim=(BOARD_PX, 0), yticks=ticks)
    figure.legend(loc="outside lower center", ncols=2, frameon=False)
    save_figure(figure, path)


def _small_t(pose: np.ndarray, size: float) -> np.ndarray:
    """The bar and the stem of a T of `size` times the true one's length, (2, 2, 2) pixels."""
    x, y, angle = pose
    along = 60 * size * np.array([np.cos(angle), np.sin(angle)])
    down = 110 * size * np.array([-np.sin(angle), np.cos(angle)])
    return np.array([x, y]) + np.array([[-along, along], [0 * down, down]])
