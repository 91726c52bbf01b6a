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
    """Go on from where `dataset` is; every block that was played is saved before the next one is waited for.

    Args:
        dataset: new or begun.
        player: of the dataset's recipe.
        episodes: that it should hold in the end.
        workers: processes.
        give_up: attempts in a row without an episode to keep, after which there is no point.

    Returns:
        False if Ctrl-C or SIGTERM came before.

    Raises:
        UserError: the disk is full, the policy does not get anywhere, or workers keep dying.
    """
    if dataset.episodes >= episodes:
        return True
    first = (dataset.notes.next_seed - player.recipe.seed) // player.block
    vain, before = 0, dataset.notes  # attempts since something was kept
    with (
        StopRequest() as stop,
        tqdm(
            total=episodes, initial=dataset.episodes, unit="episode", dynamic_ncols=True, disable=None
        ) as bar,
        closing(blocks(player, first, workers)) as source,
    ):
        for block in source:
            kept, before = choose(block, before, episodes - dataset.episodes)
            if kept:
                dataset.append(kept, before)
            vain = 0 if kept else vain + len(block)
            bar.set_postfix_str(f"kept {dataset.episodes} of {before.attempts} played", refresh=False)
            bar.update(len(kept))
            if dataset.episodes >= episodes:
                return True
            if vain >= give_up:
                raise UserError(_nothing_kept(dataset, vain))
            if stop():
                return False
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
        if episode.columns:
            kept.append(episode)
    return kept, notes


def _nothing_kept(dataset: Dataset, vain: int) -> str:
    recipe = dataset.notes.recipe
    wanted = "reached the least coverage" if recipe.all else "succeeded"
    if recipe.hold and not recipe.all:
        wanted += f" and kept the T in place for {recipe.hold} steps"
    return (
        f"{recipe.policy}: none of the last {vain} episodes {wanted}, {dataset.root} holds "
        f"{dataset.episodes}; use a better policy, --all to keep failures, or a larger --give-up"
    )
