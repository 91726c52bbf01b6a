"""Record what a policy does as a LeRobot dataset (v3.0).

    python collect_dataset.py                                      200 successes of the shipped expert
    python collect_dataset.py --root data/big --episodes 1000 --hold 10 --workers 2    more, on two cores
    python collect_dataset.py --policy human --root data/mine      you, with the mouse
    python collect_dataset.py --import-human pusht_cchi_v7_replay.zarr         the classic 206 demonstrations
    python collect_dataset.py --import-human pusht_cchi_v7_replay.zarr --hindsight    made to succeed
    python collect_dataset.py --verify data/pusht_expert           play it again and compare

At every moment the folder is a whole dataset of the episodes saved so far, whatever kills the recorder;
`--resume` goes on. Episode i is the i-th one kept in the order of the seeds, whatever the number of workers.

The dataset's card, its README.md, is written anew whenever episodes were added or taken back, and otherwise
left as it is, also as you edited it.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import cv2
import datasets
import torch

from common.config import parse
from common.errors import UserError, report_user_errors
from common.hub import check_hub_name
from common.run import StopRequest, command_line
from policies import EXPERT, WITHOUT_FOLDER, find_checkpoint, fingerprint
from recording import imported
from recording.card import write_card
from recording.checks import check_same_recipe, is_dataset, open_dataset
from recording.dataset import Dataset, Notes
from recording.hub import check_access, push
from recording.human import record_human
from recording.recorder import record
from recording.schema import HUMAN, IMPORT, Recipe, Settings
from recording.verify import verify
from recording.versions import writing_to
from recording.workers import Player

REPOSITORY = Path(__file__).parent


@dataclass(frozen=True)
class Config(Settings):
    """What to record, and where to."""

    policy: str | None = None  # a run, a checkpoint, random, scripted or human; None: the shipped expert
    root: Path | None = None  # folder of the dataset; None: data/pusht_ and who plays
    repo_id: str = ""  # user/dataset that the card links to; empty: that of push_to_hub, if there is one
    episodes: int = 200  # that the dataset holds in the end
    resume: bool = False  # go on with the dataset at root
    overwrite: bool = False  # replace the dataset at root, as soon as there is something to replace it with
    workers: int = 1  # processes; the dataset does not depend on it
    give_up: int = 320  # attempts in a row without an episode to keep, after which to stop
    verify: Path | None = None  # play this dataset again in the stock environment and compare; nothing else
    import_human: Path | None = None  # make the dataset of these recorded demonstrations, .npz or .zarr
    push_to_hub: str = ""  # upload to this name (user/dataset) when all is recorded
    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"  # of the networks; small ones are fast there

    def validate(self) -> None:
        super().validate()
        if self.policy == "":
            raise ValueError("policy must not be empty")
        for name in ("episodes", "workers", "give_up"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.resume and self.overwrite:
            raise ValueError("overwrite must be false with --resume, which keeps what is there")
        check_hub_name(self.push_to_hub, "dataset")
        check_hub_name(self.repo_id, "dataset", "repo_id")
        if self.root == Path():
            raise ValueError("root must be a folder other than the one you are in")
        if self.verify:
            self._refuse("--verify", "root", "policy", "resume", "overwrite", "import_human", "push_to_hub")
        if self.policy == HUMAN:
            self._refuse("--policy human", "video", "noise", "sampled", "workers", "device", "give_up")
        if self.import_human:
            others = "policy", "episodes", "workers", "give_up", "device", "sampled", "noise", "hold"
            self._refuse("--import-human", *others, "min_coverage", "seed")
        if self.hindsight:
            self._refuse("--hindsight", "all")
        if self.hindsight and not self.import_human:
            raise ValueError("hindsight must be left out without --import-human, which it is about")

    def _refuse(self, flag: str, *names: str) -> None:
        """Raise ValueError where one of these is set that has no meaning with a flag."""
        for name in names:
            if getattr(self, name) != getattr(Config, name):
                raise ValueError(f"{name} must be left out with {flag}, which it does not apply to")


def choose_policy(config: Config) -> str:
    """The checkpoint folder to play, or the name of a policy that needs none."""
    policy = str(config.policy or EXPERT)
    return policy if policy in (HUMAN, *WITHOUT_FOLDER) else str(find_checkpoint(policy))


def make_recipe(config: Config) -> Recipe:
    """What the episodes depend on."""
    settings = {field.name: getattr(config, field.name) for field in fields(Settings)}
    if config.import_human:
        settings |= {"all": not config.hindsight, "fingerprint": imported.fingerprint(config.import_human)}
        return Recipe(policy=IMPORT, **settings)
    if config.policy == HUMAN:
        return Recipe(policy=HUMAN, fingerprint=HUMAN, **settings | {"all": True})
    policy = choose_policy(config)
    name = policy if policy in WITHOUT_FOLDER else os.path.relpath(policy, REPOSITORY)
    return Recipe(policy=name, fingerprint=fingerprint(policy), **settings)


def choose_root(config: Config) -> Path:
    """Where the dataset goes if nothing else is said: by who plays."""
    if config.root:
        return config.root
    if config.import_human:
        player = "people_hindsight" if config.hindsight else "people"
    elif config.policy is None:
        player = "expert"
    else:
        parts = Path(config.policy).resolve().parts  # of a run, perhaps with its checkpoint
        player = parts[parts.index("checkpoints") - 1] if "checkpoints" in parts else parts[-1]
    return Path("data") / f"pusht_{player}"


def open_or_create(root: Path, config: Config, recipe: Recipe, command: str) -> Dataset:
    """The dataset to add to.

    Raises:
        UserError: what is at `root` is in the way.
    """
    occupied = root.exists() and (not root.is_dir() or any(root.iterdir()))
    if config.resume and occupied:
        dataset = open_dataset(root)
        check_same_recipe(root, dataset.notes.recipe, recipe)
        dataset.notes = replace(dataset.notes, commands=(*dataset.notes.commands, command))
        return dataset
    if occupied and not is_dataset(root):
        raise UserError(
            f"{root}: not a LeRobot dataset, so --overwrite does not touch it; choose another --root"
        )
    if occupied and not config.overwrite:
        resume = "--resume goes on with it, " if _may_resume(root, recipe) else ""
        raise UserError(f"{root}: exists; {resume}--overwrite replaces it, or choose another --root")
    return Dataset(root, Notes(recipe, next_seed=recipe.seed, commands=(command,)))


def _may_resume(root: Path, recipe: Recipe) -> bool:
    try:
        check_same_recipe(root, open_dataset(root).notes.recipe, recipe)
    except UserError:
        return False
    return True


def fill(dataset: Dataset, config: Config) -> bool:
    """Add episodes until there are enough; False if it was stopped before."""
    try:
        if config.import_human:
            return imported.import_human(dataset, config.import_human)
        if config.policy == HUMAN:
            return record_human(dataset, config.episodes)
        player = Player(dataset.notes.recipe, choose_policy(config), config.device)
        return record(dataset, player, config.episodes, config.workers, config.give_up)
    except KeyboardInterrupt:
        return False


@report_user_errors()
def main(argv: Sequence[str] | None = None) -> bool:
    """Returns whether all is as it was asked for: recorded, or verified without a difference."""
    config = parse(Config, argv, description=__doc__)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if config.verify:
        return verify(open_dataset(config.verify))

    if config.push_to_hub:
        check_access(config.push_to_hub)
    root, recipe = choose_root(config).resolve(), make_recipe(config)
    with writing_to(root):
        dataset = open_or_create(root, config, recipe, command_line("collect_dataset.py", argv))
        try:
            complete = fill(dataset, config)
        finally:  # what was saved has its card, whatever ended the recording
            if dataset.episodes and not dataset.has_card:
                name = config.push_to_hub or config.repo_id
                with StopRequest("the card of the dataset"):
                    dataset.add_card(lambda folder: write_card(folder, dataset, name))
    print(f"{os.path.relpath(root)}: {dataset.episodes} episodes, {dataset.frames} frames")
    if not complete:
        print("stopped; --resume goes on")
    elif config.push_to_hub:
        push(root, config.push_to_hub)
    return complete


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
