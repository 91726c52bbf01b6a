"""Everything that plays: `load_policy(path)` opens any checkpoint, and the policies that need none.

This is the one file that knows every kind of policy folder; all others know `envs.interfaces.Policy`.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces

from act import kinds
from common.checkpoint import follow, is_filled, newest
from common.errors import UserError, did_you_mean, show
from common.paths import LOGS, REPOSITORY, in_repository, shown
from common.untrusted import check_inside, digest, load_json, open_regular, reading
from envs.interfaces import Policy, RawObservation, Steerable, Task
from envs.steering import FROZEN
from envs.tasks import DEFAULT, FORMER, task_class
from sac.policy import decode_config, load_sac

ASSETS = REPOSITORY / "assets"
EXPERT = ASSETS / "sac_expert"
WITHOUT_FOLDER = ("random", "scripted")
MAKERS = "train_sac.py, train_act.py or lerobot-train"
OTHER_FILES = {  # by what their names end in
    ".ckpt": "a checkpoint of PyTorch Lightning or the like",
    ".zip": "an archive, as Stable-Baselines3 saves its models",
    ".pt": "a pickle of PyTorch, which could run anything",
    ".pth": "a pickle of PyTorch, which could run anything",
    ".pkl": "a pickle, which could run anything",
}


def load_policy(
    path: str | Path,
    device: torch.device | str = "cpu",
    deterministic: bool = True,
    seed: int = 0,
    n_action_steps: int | None = None,
    temporal_ensemble_coeff: float | None = None,
    task: Task | None = None,
    escapes: bool = True,
) -> Policy:
    """Open any policy.

    Args:
        path: a checkpoint folder, a run folder (its best checkpoint, else its last), "random" or "scripted".
        device: of the networks.
        deterministic: act with the policy's mode, or with noise 0; False samples.
        seed: of all randomness in the policy.
        n_action_steps, temporal_ensemble_coeff: how the chunks of an imitation policy are played, see
            `act.player.ChunkPlayer`; None: as it was trained to.
        task: that it is to play; None: its own (`task_of`).
        escapes: the mode of a SAC policy gets away from where it is stuck, see sac/escape.py.

    Raises:
        UserError: there is no such policy, its folder is not whole, or it cannot be played like that.
    """
    task = task or task_of(path)
    folder, config = (Path(path), {}) if str(path) in WITHOUT_FOLDER else _read_config(path)
    kind = config.get("algorithm", config.get("type"))
    if "algorithm" not in config and kind in kinds.names():
        from act.opening import load_player  # LeRobot takes seconds to import

        sampled = not deterministic
        return load_player(folder, task, device, n_action_steps, temporal_ensemble_coeff, sampled, seed)
    if n_action_steps is not None or temporal_ensemble_coeff is not None:
        raise UserError(f"{path}: only imitation policies have chunks of actions to play more or less of")
    if str(path) in WITHOUT_FOLDER:
        return _without_folder(str(path), task, deterministic, seed)
    if config.get("algorithm") == "sac":
        frozen = _frozen(folder, config, device, task) if "steering" in config else None
        return load_sac(folder, config, device, deterministic, seed, escapes, frozen, task)
    known = kinds.names_in_words()
    if "type" in config and "algorithm" not in config:
        raise UserError(
            f"{folder}: this is a LeRobot policy of type {show(kind)}; those of type {known} play here"
        )
    if kind is None:
        raise UserError(f"{folder / 'config.json'}: no algorithm and no type, so no policy of {MAKERS}")
    raise UserError(f"{folder / 'config.json'}: algorithm must be sac, or type {known}, got {show(kind)}")


def _frozen(folder: Path, config: dict[str, Any], device: torch.device | str, task: Task) -> Steerable:
    """The policy that a checkpoint of SAC steers, as it was in training."""
    steering, of = decode_config(folder / "config.json", config)[0].steering, folder / FROZEN
    if _read_config(of)[1].get("algorithm") is not None:
        raise UserError(f"{of}: a policy of SAC draws no noise, so there is nothing to steer")
    if fingerprint(of) != steering.policy:
        raise UserError(f"{of}: not the policy that {folder} was trained to steer, or changed since")
    return steerable(of, device, task)


def steerable(path: str | Path, device: torch.device | str, task: Task) -> Steerable:
    """Open a policy whose noise can be chosen.

    Raises:
        UserError: it has none, or `load_policy` cannot open it.
    """
    policy = load_policy(path, device, task=task)
    if not isinstance(policy, Steerable):
        raise UserError(f"{path}: this policy draws no noise, so there is nothing to steer")
    return policy


def _without_folder(name: str, task: Task, deterministic: bool, seed: int) -> Policy:
    if name == "random":
        return RandomPolicy(task.vector_env(1).single_action_space, seed)
    if not deterministic:
        raise UserError("scripted: this policy has no distribution to sample actions from")
    if (scripted := task.scripted_policy()) is None:
        raise UserError(f"scripted: {task.name} has no scripted policy")
    return scripted


def task_of(path: str | Path, asked: str | None = None) -> Task:
    """The task that a policy was trained on.

    Args:
        path: as for `load_policy`.
        asked: the name that the task must have; the task of "random" and "scripted". None: no such demand.

    Raises:
        UserError: it is another one, or there is no such policy or task.
    """
    if str(path) in WITHOUT_FOLDER:
        return task_class(DEFAULT if asked is None else asked)()
    folder, config = _read_config(path)
    former = asked if "type" in config and asked is not None else FORMER
    own = config.get("task", former)  # LeRobot does not save it; there was one when nobody did
    if not isinstance(own, str):
        raise UserError(f"{folder}: task must be a name, got {show(own)}")
    if asked is not None and asked != own:
        task_class(asked)
        raise UserError(f"{path}: this policy was trained on task {own}, not {asked}")
    if config.get("algorithm") == "sac":
        return decode_config(folder / "config.json", config)[1]
    return task_class(own)()


def _read_config(path: str | Path) -> tuple[Path, dict[str, Any]]:
    folder = find_weights(path)
    file = folder / "config.json"
    if not file.exists():
        raise UserError(f"{file}: missing, and no checkpoints, so {path} is no policy of {MAKERS}")
    config = load_json(file)
    if "algorithm" not in config and (beside := folder / "task.json").exists():
        config["task"] = load_json(beside).get("task")
    return folder, config


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that `path`, a checkpoint or a run, stands for.

    Raises:
        UserError: there is none.
    """
    path = follow(in_repository(path))
    if not path.is_dir():
        raise UserError(_no_folder(path))
    if path.name == "pretrained_model":  # half of one of LeRobot's checkpoints
        return path.parent
    checkpoints = path / "checkpoints"
    if not checkpoints.is_dir():
        return path
    for name in ("best", "last"):
        if is_filled(found := follow(checkpoints / name)):
            return found
    if found := newest(checkpoints, "config.json", "model.safetensors"):  # a copy without links
        return found
    raise UserError(f"{path}: this run has saved no checkpoint yet, {checkpoints} has neither best nor last")


def _no_folder(path: Path) -> str:
    """What a path is that is no folder, and what would be right."""
    if path.exists():
        if (path.parent / "config.json").exists():
            return f"{path}: this is a file; --policy takes the folder it is in, {path.parent}"
        what = OTHER_FILES.get(path.suffix, "a file")
        return f"{path}: this is {what}; --policy takes a run or checkpoint folder of {MAKERS}"
    names = [*WITHOUT_FOLDER, *(str(checkpoints.parent) for checkpoints in LOGS.glob("*/checkpoints"))]
    names += [f"assets/{expert.name}" for expert in ASSETS.glob("sac_expert*")]
    nearest = did_you_mean(str(path), names)
    on_the_hub = re.fullmatch(r"(?:https?:/huggingface\.co/|hf:/)?([\w.-]+/[\w.-]+)", str(path))
    if on_the_hub and not path.parent.exists():
        download = f"hf download {on_the_hub[1]} --local-dir {on_the_hub[1].partition('/')[2]}"
        return f"{path}: no such folder{nearest or '.'} One of the Hub's comes with: {download}"
    return f"{path}: no such folder{nearest}"


def find_weights(path: str | Path) -> Path:
    """The folder in that checkpoint which holds the policy: in LeRobot's layout one below."""
    folder = find_checkpoint(path)
    return folder / "pretrained_model" if (folder / "pretrained_model").is_dir() else folder


def default_policy(task: str | None = None) -> Path:
    """The newest run's best checkpoint, or the expert that comes with the repository.

    Args:
        task: that it is to have been trained on; None: any.

    Raises:
        UserError: there is neither.
    """
    runs = [path.parent for path in LOGS.glob("*/checkpoints") if path.parent.name.isprintable()]
    runs = [run for run in runs if _plays(run, task)]
    if runs:
        return find_checkpoint(max(runs, key=lambda run: (find_weights(run) / "config.json").stat().st_mtime))
    if EXPERT.is_dir() and _plays(EXPERT, task):
        return shown(EXPERT)
    of_task, flag = (f" of task {task}", f" --task {task}") if task else ("", "")
    raise UserError(
        f"no policy: no run{of_task} in {LOGS.absolute()} and no {EXPERT}{of_task}; "
        f"train one with train_sac.py{flag}"
    )


def _plays(path: Path, task: str | None) -> bool:
    """Whether a run or checkpoint has a policy, of this task."""
    with suppress(UserError):
        file = find_weights(path) / "config.json"
        return file.is_file() and (task is None or _read_config(path)[1].get("task", FORMER) == task)
    return False


def fingerprint(path: str | Path) -> str:
    """Identifies a policy by content, not by name: the SHA-256 of its settings and weights."""
    if str(path) in WITHOUT_FOLDER:
        return str(path)
    return digest((file.name, file) for file in _files(path))


def policy_files(path: str | Path) -> dict[str, bytes]:
    """The settings and weights of a policy, in the order of their names.

    Raises:
        UserError: there is no such policy, a file cannot be read, or is a link that leads out of its folder.
    """
    files = {}
    for file in _files(path):
        check_inside(file, file.parent)  # else what it leads to would be copied, and perhaps published
        with reading(file), open_regular(file) as content:
            files[file.name] = content.read()
    return files


def _files(path: str | Path) -> list[Path]:
    folder = find_weights(path)
    return sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")])


class RandomPolicy:
    """Actions drawn uniformly from a bounded action space."""

    n_action_steps = 1
    image_size = 0
    history = 1

    def __init__(self, action_space: spaces.Box, seed: int = 0) -> None:
        self.bounds = action_space.low.astype(float), action_space.high.astype(float)
        self.rng = np.random.default_rng(seed)
        self.slot_rngs: list[np.random.Generator] = []

    def seed_slots(self, seeds: Sequence[int]) -> None:
        self.slot_rngs = [np.random.default_rng(seed) for seed in seeds]

    def reset(self, slots: np.ndarray) -> None:
        pass

    def act(self, observations: RawObservation) -> np.ndarray:
        if self.slot_rngs:
            return np.stack([rng.uniform(*self.bounds) for rng in self.slot_rngs])
        num_slots = len(next(iter(observations.values())))
        return self.rng.uniform(*self.bounds, (num_slots, *self.bounds[0].shape))
