"""Demonstrations that were recorded elsewhere, for LeRobot."""

from itertools import batched
from pathlib import Path

from tqdm import tqdm

from common.errors import UserError
from common.signals import StopRequest
from envs.recording import Demonstration, Recordable
from recording.dataset import Dataset
from recording.episodes import complete
from recording.pictures import encode_png, histogram
from recording.schema import NO_SEED, Recipe, RecordedEpisode, columns

EPISODES_PER_SAVE = 50


def import_demonstrations(dataset: Dataset, path: Path) -> bool:
    """Write all demonstrations of a file that `dataset` does not hold yet.

    Returns:
        False if Ctrl-C or SIGTERM came before.

    Raises:
        UserError: the task cannot read the file, nothing in it succeeds in hindsight, or the disk is full.
    """
    recipe, task, notes = dataset.notes.recipe, dataset.task, dataset.notes
    resolution = recipe.resolution if recipe.observations == "pixels" else 0
    demonstrations = task.recording.demonstrations(path, resolution, recipe.hindsight)
    look = {"initial": notes.attempts, "unit": "episode", "desc": "importing", "dynamic_ncols": True}
    with (
        StopRequest("these episodes, to save") as stop,
        tqdm(total=len(demonstrations), disable=None, **look) as bar,
    ):
        for batch in batched(demonstrations.read(notes.attempts), EPISODES_PER_SAVE):
            tried = [_episode(task, recipe, demonstration) for demonstration in batch]
            accepted = [episode for episode in tried if episode.accepted]
            notes = notes.after(len(tried), sum(episode.success for episode in tried))
            if accepted:
                dataset.append(accepted, notes)
            bar.update(len(tried))
            if stop() and notes.attempts < len(demonstrations):
                return False
    if not dataset.episodes:
        raise UserError(f"{path}: no demonstration succeeds in hindsight")
    return True


def _episode(task: Recordable, recipe: Recipe, demonstration: Demonstration) -> RecordedEpisode:
    progress, is_success = demonstration.progress, demonstration.is_success
    episode = RecordedEpisode(NO_SEED, bool(is_success[-1]), float(progress.max()))
    if recipe.accepts(episode.success, episode.max_progress):
        observations, actions, rewards, *_ = demonstration
        values = columns(task, recipe, observations, actions, actions, rewards, is_success)
        pictures = demonstration.pictures
        complete(
            recipe, task, episode, values, [encode_png(p) for p in pictures], [histogram(p) for p in pictures]
        )
    return episode
