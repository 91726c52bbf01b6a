"""Record until a dataset holds the episodes that were asked for."""

from collections.abc import Iterable
from contextlib import closing
from dataclasses import replace

from tqdm import tqdm

from common.errors import UserError
from common.run import StopRequest
from recording.dataset import Dataset, Notes
from recording.schema import Recorded
from recording.workers import Player, blocks


def record(dataset: Dataset, player: Player, episodes: int, workers: int, give_up: int) -> bool:
    """Go on from where `dataset` is; each block is saved before the next one is waited for.

    Args:
        dataset: new or begun.
        player: of the dataset's recipe.
        episodes: that it should hold in the end.
        workers: processes.
        give_up: attempts in a row without an episode to keep, after which to stop.

    Returns:
        False if Ctrl-C or SIGTERM came before.

    Raises:
        UserError: the disk is full, the policy does not get anywhere, or workers keep dying.
    """
    if dataset.episodes >= episodes:
        return True
    first = (dataset.notes.next_seed - player.recipe.seed) // player.block
    vain, notes = 0, dataset.notes  # attempts since something was kept; where these have got to
    look = {"initial": dataset.episodes, "unit": "episode", "dynamic_ncols": True, "disable": None}
    with (
        StopRequest("this block, to save") as stop,
        tqdm(total=episodes, **look) as bar,
        closing(blocks(player, first, workers)) as source,
    ):
        for block in source:
            kept, notes = choose(block, notes, episodes - dataset.episodes)
            if kept:
                dataset.append(kept, notes)
            vain = 0 if kept else vain + len(block)
            bar.set_postfix_str(f"kept {dataset.episodes} of {notes.attempts} played", refresh=False)
            bar.update(len(kept))
            if dataset.episodes >= episodes:
                return True
            if vain >= give_up:
                dataset.notes = notes
                raise UserError(_nothing_kept(dataset, vain))
            if stop():
                break
    dataset.notes = notes  # also what was played in vain since the last episode
    return False


def choose(block: Iterable[Recorded], notes: Notes, wanted: int) -> tuple[list[Recorded], Notes]:
    """Of the episodes not decided yet, in the order of their seeds, those to keep, until there are enough.

    Returns:
        them, and the notes after them.
    """
    kept: list[Recorded] = []
    for episode in block:
        if episode.seed < notes.next_seed or len(kept) == wanted:
            continue
        notes = replace(
            notes,
            next_seed=episode.seed + 1,
            attempts=notes.attempts + 1,
            successes=notes.successes + episode.success,
        )
        if episode.accepted:
            kept.append(episode)
    return kept, notes


def _nothing_kept(dataset: Dataset, vain: int) -> str:
    recipe = dataset.notes.recipe
    wanted = "reached the least coverage" if recipe.all else "succeeded"
    if recipe.hold and not recipe.all:
        wanted += f" and kept the T in place for {recipe.hold} steps"
    return (
        f"{recipe.policy}: none of the last {vain} episodes {wanted}, after {dataset.episodes} saved to "
        f"{dataset.root}; use a better policy, --all to keep failures, or a larger --give-up"
    )
