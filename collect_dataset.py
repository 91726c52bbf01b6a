"""Record episodes of a policy as a LeRobot dataset (v3.0).

    python collect_dataset.py                                           what train_act.py reads, see below
    python collect_dataset.py --observations pixels --episodes 200      with pictures, data/pusht_expert
    python collect_dataset.py --root data/big --episodes 5000 --workers 2     more, on two cores
    python collect_dataset.py --policy human --root data/mine           you, at mouse or keyboard
    python collect_dataset.py --import-human pusht_cchi_v7_replay.zarr --hindsight     people's demonstrations
    python collect_dataset.py --verify data/pusht_expert_keypoints      replay it and compare

Without arguments it records 2,000 successes of the shipped expert, 109,399 frames of keypoints, in half a
minute of one CPU core to data/pusht_expert_keypoints.

The folder is a whole dataset of the episodes saved so far at all times, whenever the recorder is killed.
`--resume` adds to it, with the settings that it was recorded with. Episode i is the i-th one kept in the
order of the seeds, for any number of workers.

The dataset's card, its README.md, is rewritten whenever episodes were added or removed, unless you
have edited it.
"""

import common.start  # noqa: F401  before all other imports

# isort: split

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import cv2
import datasets
import torch

from common.bounds import Between, Count
from common.by_name import with_settings
from common.checkpoint import is_filled
from common.config import parse
from common.errors import UserError, reason, report_user_errors
from common.flags import typed
from common.hub import check_hub_name
from common.paths import REPOSITORY, shown
from common.run import command_line
from common.signals import StopRequest
from envs.recording import Recordable
from envs.tasks import DEFAULT
from policies import EXPERT, WITHOUT_FOLDER, find_checkpoint, fingerprint, task_of
from recording.card import write_card
from recording.checks import (
    check_replaceable,
    check_root,
    check_same_recipe,
    check_values,
    open_recording,
    stored_recipe,
)
from recording.dataset import README, Dataset, Notes, is_edited
from recording.hub import check_access, push
from recording.human import record_human
from recording.imported import import_demonstrations
from recording.recorder import record
from recording.schema import HUMAN, IMPORT, Recipe, Settings, name_of, recordable, recorded_task
from recording.verify import verify
from recording.versions import writing_to
from recording.workers import BlockRecorder


@dataclass(frozen=True)
class Config(Settings):
    """What to record, and where to."""

    policy: str | None = None  # a run, a checkpoint, random, scripted or human; None: the shipped expert
    task: str | None = None  # see envs/tasks.py; None: the policy's own, pusht for random, scripted and human
    root: Path | None = None  # folder of the dataset; None: data/<task>_<policy>, of keypoints _keypoints
    repo_id: str = ""  # user/dataset that the card links to; empty: that of push_to_hub, if there is one
    episodes: Count = 2000  # that the dataset holds in the end
    resume: bool = False  # add to the dataset at root, with the settings that it was recorded with
    overwrite: bool = False  # replace the dataset at root when the first episodes are saved
    workers: Annotated[int, Between(1, 256)] = 1  # processes; the dataset does not depend on it
    give_up: Count = 320  # attempts in a row without an episode to keep, after which to stop
    verify: Path | None = None  # replay this dataset in the stock environment and compare; nothing else
    import_human: Path | None = None  # make the dataset of these recorded demonstrations, .npz or .zarr
    push_to_hub: str = ""  # upload to this name (user/dataset) when all is recorded
    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"  # of the networks; small ones are fast there

    def validate(self) -> None:
        super().validate()
        if self.policy == "":
            raise ValueError("policy must not be empty")
        if self.resume and self.overwrite:
            raise ValueError("overwrite must be false with --resume, which keeps what is there")
        check_hub_name(self.push_to_hub, "dataset")
        check_hub_name(self.repo_id, "dataset", "repo_id")
        if self.root == Path():
            raise ValueError("root must be a folder other than the one you are in")
        if self.verify:
            self._refuse(
                "--verify", "task", "root", "policy", "resume", "overwrite", "import_human", "push_to_hub"
            )
        if self.policy == HUMAN:
            self._refuse("--policy human", "video", "noise", "sampled", "workers", "device", "give_up")
        if self.import_human:
            others = "policy", "episodes", "workers", "give_up", "device", "sampled", "noise", "hold"
            self._refuse("--import-human", *others, "min_progress", "seed")
        if self.hindsight:
            self._refuse("--hindsight", "all")
        if self.hindsight and not self.import_human:
            raise ValueError("hindsight must be left out without --import-human, to which it applies")

    def _refuse(self, flag: str, *names: str) -> None:
        """Raise ValueError where a setting is given that does not apply with a flag."""
        for name in names:
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(f"{name} must be left out with {flag}, which it does not apply to")


def of_dataset(root: Path, argv: Sequence[str] | None) -> Config | None:
    """The configuration with the settings of the dataset at `root` where no flag says otherwise.

    None where there is no such dataset.
    """
    recipe = stored_recipe(root)
    if not recipe:
        return None
    names = [setting.name for setting in fields(Settings)]
    stored = {name: getattr(recipe, name) for name in names if name != "hindsight"}  # of --import-human
    return parse(with_settings(Config, stored), argv)


def choose_policy(config: Config) -> str:
    """The checkpoint folder to play, or the name of a policy that needs none."""
    policy = str(config.policy or EXPERT)
    return policy if policy in (HUMAN, *WITHOUT_FOLDER) else str(find_checkpoint(policy))


def choose_task(config: Config) -> Recordable:
    """The task to record.

    Raises:
        UserError: there is no such task, it cannot be recorded, or the policy was trained on another one.
    """
    if config.task is not None:
        recorded_task(config.task)
    if config.import_human or config.policy == HUMAN:
        return recorded_task(DEFAULT if config.task is None else config.task)
    return recordable(task_of(choose_policy(config), config.task))


def make_recipe(config: Config) -> Recipe:
    """What the episodes depend on.

    Raises:
        UserError: there is no such policy, task or file of demonstrations.
    """
    task = choose_task(config)
    settings: dict[str, Any] = {setting.name: getattr(config, setting.name) for setting in fields(Settings)}
    settings["task"] = name_of(task)
    if task.recording.ends_at_success:
        if config.hold not in (0, Settings.hold):
            raise UserError(f"hold must be left out: a success ends {task.name}")
        settings["hold"] = 0
    if config.import_human:
        settings |= {"all": not config.hindsight, "hold": 0}  # demonstrations have the length they have
        return Recipe(policy=IMPORT, fingerprint=task.recording.fingerprint(config.import_human), **settings)
    if config.policy == HUMAN:
        settings["all"] = True
        return Recipe(policy=HUMAN, fingerprint=HUMAN, **settings)
    policy = choose_policy(config)
    name = policy if policy in WITHOUT_FOLDER else os.path.relpath(policy, REPOSITORY)
    return Recipe(policy=name, fingerprint=fingerprint(policy), **settings)


def choose_root(config: Config) -> Path:
    """The folder of the dataset: `root`, or by default by task, policy and observations."""
    if config.root:
        return config.root
    if config.import_human:
        policy = "people_hindsight" if config.hindsight else "people"
    elif config.policy is None:
        policy = "expert"
    else:
        path = Path(os.path.realpath(choose_policy(config)))  # a checkpoint, or a name that needs none
        policy = path.parents[1].name if path.parent.name == "checkpoints" else path.name
    name = f"{name_of(choose_task(config))}_{policy}"
    return Path("data") / (name if config.observations == "pixels" else f"{name}_keypoints")


def open_or_create(root: Path, config: Config, recipe: Recipe, argv: Sequence[str] | None) -> Dataset:
    """The dataset to add to.

    Raises:
        UserError: there is something else at `root`, or a dataset that may not be changed.
    """
    command = command_line("collect_dataset.py", argv)
    occupied = root.exists() and (not root.is_dir() or is_filled(root))
    if config.resume and occupied:
        dataset = open_recording(root)
        check_same_recipe(root, dataset.notes.recipe, recipe)
        check_values(dataset)
        dataset.notes = replace(dataset.notes, commands=(*dataset.notes.commands, command))
        return dataset
    hindrance = _hindrance(root, argv) if occupied and not config.overwrite else ""
    if occupied and (config.overwrite or hindrance):
        check_replaceable(root)
    if hindrance:
        raise UserError(
            f"{root}: exists; choose another --root, or replace it with --overwrite; --resume cannot add to "
            f"it: {hindrance}"
        )
    if occupied and not config.overwrite:
        raise UserError(f"{root}: exists; --resume adds to it, --overwrite replaces it")
    return Dataset(root, Notes(recipe, next_seed=recipe.seed, commands=(command,)))


def _hindrance(root: Path, argv: Sequence[str] | None) -> str:
    """Why the same flags and `--resume` would not add to the dataset at `root`; empty where they would."""
    try:
        dataset, config = open_recording(root), of_dataset(root, argv)
        if config:
            check_same_recipe(root, dataset.notes.recipe, make_recipe(config))
    except UserError as error:
        return str(error).replace(f"{root}/", "").removeprefix(str(root)).lstrip(": ")[:120]
    return "" if config else "collect_dataset.py did not record it"


def fill(dataset: Dataset, config: Config) -> bool:
    """Add episodes until there are enough.

    Returns:
        False if it was stopped before.
    """
    try:
        if config.import_human:
            return import_demonstrations(dataset, config.import_human)
        if config.policy == HUMAN:
            return record_human(dataset, config.episodes)
        recorder = BlockRecorder(dataset.notes.recipe, choose_policy(config), config.device)
        return record(dataset, recorder, config.episodes, config.workers, config.give_up)
    except KeyboardInterrupt:
        return False


def add_card(dataset: Dataset, name: str) -> None:
    """Add the card, with the dataset's name on the Hub; the dataset is whole without, whatever fails here."""
    try:
        with StopRequest("the card of the dataset"):
            dataset.add_card(lambda folder: write_card(folder, dataset, name))
        if is_edited(readme := dataset.root / README):
            print(f"{readme} may be edited, so it stays as it is; delete it and --resume for a new one")
    except Exception as error:
        print(f"warning: {dataset.root} has no card ({reason(error)})", file=sys.stderr)


@report_user_errors()
def main(argv: Sequence[str] | None = None) -> bool:
    """Returns whether everything was recorded, or verified without a difference."""
    config = parse(Config, argv, description=__doc__)
    datasets.disable_progress_bars()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    if config.verify:
        return verify(open_recording(config.verify))

    if config.push_to_hub:
        check_access(config.push_to_hub)
    root = Path(os.path.realpath(choose_root(config)))
    check_root(root)
    if config.resume:
        config = of_dataset(root, argv) or config
    recipe = make_recipe(config)
    with writing_to(root):
        dataset = open_or_create(root, config, recipe, argv)
        source = config.import_human or recipe.policy
        print(f"recording {source} on {dataset.task.name}, {recipe.observations}, to {shown(root)}")
        try:
            complete = fill(dataset, config)
        finally:  # whatever ended the recording, the saved episodes get their card
            name = config.push_to_hub or config.repo_id  # which the card links to
            if dataset.episodes and (name or not dataset.has_card):
                add_card(dataset, name)
    print(f"{shown(root)}: {dataset.episodes:,} episodes, {dataset.frames:,} frames")
    if not complete:
        print("stopped; to resume: the same command with --resume")
        return False
    print(f"Train on it: python train_act.py {typed('--dataset.root', shown(root))}")
    if config.push_to_hub:
        push(root, config.push_to_hub, dataset.task.recording.card.license)
    return True


if __name__ == "__main__":
    sys.exit(0 if main() else 1)
