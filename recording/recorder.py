"""Record until a dataset holds as many episodes as it should."""

from collections.abc import Iterable
from contextlib import closing

from tqdm import tqdm

from common.errors import UserError
from common.signals import StopRequest
from recording.dataset import Dataset, Notes
from recording.schema import RecordedEpisode
from recording.workers import BlockRecorder, recorded_blocks


def record(dataset: Dataset, recorder: BlockRecorder, episodes: int, workers: int, give_up: int) -> bool:
    """Add episodes to `dataset`; each block is saved before the next one is waited for.

    Args:
        dataset: new or begun.
        recorder: of the dataset's recipe.
        episodes: that it will hold in the end.
        workers: processes.
        give_up: attempts in a row without an episode to keep, after which to stop.

    Returns:
        False if Ctrl-C or SIGTERM came before.

    Raises:
        UserError: the disk is full, no episode is worth keeping, or workers keep dying.
    """
    if dataset.episodes >= episodes:
        return True
    first = (dataset.notes.next_seed - recorder.recipe.seed) // recorder.block_size
    rejected, notes = 0, dataset.notes  # attempts since an episode was kept; notes after them
    look = {"initial": dataset.episodes, "unit": "episode", "desc": "recording", "dynamic_ncols": True}
    with (
        StopRequest("this block, to save") as stop,
        tqdm(total=episodes, disable=None, **look) as bar,
        closing(recorded_blocks(recorder, first, workers)) as blocks,
    ):
        for block in blocks:
            before = notes.attempts
            kept, notes = choose(block, notes, episodes - dataset.episodes)
            if kept:
                dataset.append(kept, notes)
            rejected = 0 if kept else rejected + notes.attempts - before
            bar.set_postfix_str(f"kept {dataset.episodes} of {notes.attempts} played", refresh=False)
            bar.update(len(kept))
            if dataset.episodes >= episodes:
                return True
            if rejected >= give_up:
                dataset.notes = notes
                raise UserError(_nothing_kept(dataset, rejected))
            if stop():
                break
    dataset.notes = notes  # also attempts since the last episode
    return False


def choose(
    block: Iterable[RecordedEpisode], notes: Notes, wanted: int
) -> tuple[list[RecordedEpisode], Notes]:
    """Of the episodes not decided yet, in the order of their seeds, those to keep, until there are enough.

    Returns:
        them, and the notes after them.
    """
    kept: list[RecordedEpisode] = []
    for episode in block:
        if episode.seed < notes.next_seed or len(kept) == wanted:
            continue
        notes = notes.after(1, int(episode.success), next_seed=episode.seed + 1)
        if episode.accepted:
            kept.append(episode)
    return kept, notes


def _nothing_kept(dataset: Dataset, rejected: int) -> str:
    recipe = dataset.notes.recipe
    wanted = f"reached the least {dataset.task.progress_name}" if recipe.all else "succeeded"
    if recipe.hold and not recipe.all:
        wanted += f" and stayed successful for {recipe.hold} steps"
    return (
        f"{recipe.policy}: none of the last {rejected} episodes {wanted}, after {dataset.episodes} saved to "
        f"{dataset.root}; use a better policy, --all to keep failures, or a larger --give-up"
    )
