"""What is fed: each target has a valid input, made once, and a way to open it that says what must be true."""

import io
import json
import math
import runpy
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from random import Random
from typing import Any

import datasets
import mutations
import numpy as np
import torch
import yaml
from imageio.v3 import imiter, imread
from inputs import (
    EXPERT,
    TINY_SAC,
    Case,
    act_flags,
    collect_flags,
    evaluate_flags,
    read_frames,
    read_rows,
    sac_flags,
)
from matplotlib.figure import Figure
from oracles import Wrong, check_changed, check_dataset, check_plausible, check_says, flatten
from safetensors.numpy import load_file

import act.player
import act.trainer
import collect_dataset
import common.signals
import demo
import envs.pusht.task
import evaluate
import train_act
import train_sac
from common.config import _kinds, parse, to_dict
from envs.pusht.demonstrations import PeoplesDemonstrations
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import rollout
from policies import find_weights, load_policy, task_of
from recording.checks import open_recording
from recording.verify import verify

RUNS_S = 2.0  # of CPU time after which long work counts as begun


class Runs(BaseException):
    """Long work has begun."""


@dataclass(frozen=True)
class Target:
    name: str
    source: str  # of the valid input
    files: tuple[str, ...]  # of which one is changed
    open: Callable[[Case], Any]
    cost: float = 1.0  # of an input, relative
    change: Callable[[Path, Random, Path], str] = mutations.file
    writes: bool = False  # anywhere, where it is told to


def beating(method: Callable) -> Callable:
    """The method, which shows that work goes on, and ends the process when it has gone on for long."""
    count = 0

    def beat(*args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        if count > 2 and time.process_time() - STARTED[0] > RUNS_S:
            raise Runs
        return method(*args, **kwargs)

    return beat


def compiles(*_: Any, **__: Any) -> Any:
    """In place of PyTorch's compiler, which needs longer than an input may."""
    raise Runs


STARTED = [math.inf]  # CPU time when the input was opened
common.signals.StopRequest.__call__ = beating(common.signals.StopRequest.__call__)  # asked before each update
PushTVectorEnv.step = beating(PushTVectorEnv.step)
envs.pusht.task.PushTVectorEnv = partial(PushTVectorEnv, max_episode_steps=20)  # of trainings and evaluations
torch.compile = compiles
torch.set_num_threads(1)
datasets.disable_progress_bars()
WARM = PushTVectorEnv(1, 32)  # loads its compiled kernels, here once
WARM.reset(seed=np.zeros(1, np.int64))
WARM.step(np.zeros((1, 2)))
Figure().text(0, 0, "and fonts").figure.savefig(io.BytesIO())


def with_yaml(read: Callable, main: Callable, flags: Callable, case: Case) -> None:
    config = read(flags(case.folder))
    said = yaml.safe_load(case.said.decode("utf-8-sig")) or {}
    check_says(config, said, "logs", "run_name", "dataset.root")
    main(flags(case.folder, "new"))


def change_flags(config_class: Callable[[], Any], path: Path, rng: Random, _: Path) -> str:
    """A flag of the script, or nearly one, with a value that may be anything."""
    keys = [key for key in _kinds(config_class()) if key not in ("wandb_project", "push_to_hub", "repo_id")]
    flag = "--" + rng.choice([*keys, "config"]).replace("_", rng.choice("--_"))
    value = rng.choice([*mutations.STRINGS, *map(str, mutations.NUMBERS[:12]), "9" * 400, "\udcff", "1 2"])
    others = [[f"{flag}={value}"], [flag], [flag + "x", value], [value], [flag, value] * 2]
    others += [["--no-" + flag[2:]]]
    words = rng.choice([[flag, value]] * 6 + [[flag, *value.split()]] * 2 + others)
    path.write_text(json.dumps(words))
    return shlex.join(words)


def with_flags(read: Callable, main: Callable, flags: Callable, case: Case) -> None:
    argv = [*flags(case.folder, "new"), *(words := json.loads(case.said))]
    config = read(argv)
    if len(words) == 2 and words[1] not in ("None", "-1"):
        key = words[0].removeprefix("--").replace("-", "_")
        several = isinstance(flatten(to_dict(config)).get(key), list)
        check_says(config, {key: words[1:] if several else words[1]})
    main(argv)


def with_demo(case: Case) -> None:
    def begins(argv: Any) -> None:
        raise Wrong("demo.py begins without a look at its flags")

    if words := json.loads(case.said):
        sys.argv[1:], train_sac.main = words, begins
        runpy.run_path(demo.__file__, run_name="__main__")


def play(case: Case, run: str = "run") -> None:
    """A policy that opens has the weights of its file and plays."""
    path = case.folder / "logs" / run / "checkpoints/last"
    policy: Any = load_policy(path)
    env = task_of(path).vector_env(1, policy.image_size)
    (episode,) = rollout(env, policy, [0])
    if episode.actions[0].shape != env.single_action_space.shape or not np.isfinite(episode.actions).all():
        raise Wrong(f"an action is {episode.actions[0]}")
    network = policy.actor if hasattr(policy, "actor") else policy.policy
    weights = load_file(find_weights(path) / "model.safetensors")
    for name, tensor in network.state_dict().items():
        if name in weights and not np.array_equal(tensor.numpy().flat, weights[name].flat):
            raise Wrong(f"{name} is not what model.safetensors says, or no number")
    if case.changed.endswith("config.json"):
        new, old = (
            json.loads(case.said.decode("utf-8-sig")),
            json.loads((case.valid / case.changed).read_bytes()),
        )
        check_plausible(new, {name: size for name, size in old.items() if type(size) is int})
        check_says(task_of(path), new.get("env", {}))


def go_on(main: Callable, flags: Callable, more: str, case: Case) -> None:
    """A resumed training has the metrics of before, and took nothing absurd for its state."""
    main([*flags(case.folder), *more.split()])
    if case.changed.endswith(("counters.json", "trainer.json", "training_step.json")):
        check_changed(case, "batch_size", "num_processes")  # that only LeRobot reads
    elif STATE in case.changed:
        check_changed(case, now=case.folder / "logs/run/checkpoints/last" / STATE / Path(case.changed).name)
    elif case.changed.endswith(".csv") and case.said:
        whole = case.said[: case.said.rfind(b"\n")].decode()
        reached = int(Path(SAC if main is train_sac.main else ACT).name.removeprefix("step_"))
        old = [row for row in read_rows(whole) if int(row["step"]) <= reached]  # later ones are made anew
        new = read_rows(case.path.read_text())
        if old != new[: len(old)]:
            raise Wrong(f"metrics.csv had {len(old)} rows before, and they changed")


def start_from(case: Case) -> None:
    train_act.main([*act_flags(case.folder, "new"), "--steps", "5", "--start-from", str(case.folder / ACT)])


def learn_offline(case: Case) -> None:
    """Demonstrations are those of a dataset that is whole."""
    (case.folder / "sac.yaml").write_text(TINY_SAC)
    flags = [
        "--config",
        str(case.folder / "sac.yaml"),
        "--logs",
        str(case.folder / "logs"),
        "--run-name",
        "new",
    ]
    train_sac.main([*flags, "--offline.dataset", str(case.folder / "set"), "--offline.steps", "3"])
    check_dataset(case.folder / "set")


def learn_from(case: Case) -> None:
    """The frames that a training would learn from are those of the files, by pandas."""

    class Begins(BaseException):
        pass

    def train(self: act.trainer.Trainer, *_: Any) -> bool:
        raise Begins(self.frames)  # which have been read

    act.trainer.Trainer.train = train
    try:
        train_act.main(act_flags(case.folder, "new"))
    except Begins as begun:
        frames = begun.args[0]
    check_dataset(case.folder / "set")
    table, films = read_frames(case.folder / "set"), sorted(case.folder.glob(FILM.replace("000", "*")))
    for name, pictures in frames.pictures.items():
        if films and case.changed.endswith(".mp4"):
            continue  # FFmpeg conceals what is lost
        whole = (list(imiter(film)) for film in films)
        cells = () if films else table[name]
        read = [*chain(*whole), *(imread(cell["bytes"], mode="RGB") for cell in cells)]
        if not np.array_equal(pictures.numpy(), np.stack(read).transpose(0, 3, 1, 2)):
            raise Wrong(f"other pictures {name}")
    if not all(values.isfinite().all() for values in frames.vectors.values()):
        raise Wrong("some numbers are not finite when they are normalised")


def add_to(case: Case) -> None:
    """A dataset that has grown is whole, its statistics included."""
    root = case.folder / "set"
    collect_dataset.main(["--root", str(root), "--resume", "--episodes", "4", "--policy", EXPERT])
    check_dataset(root)
    if case.changed.endswith("recording.json"):
        check_changed(case, "commands")
    stats = [json.loads((folder / "set/meta/stats.json").read_text()) for folder in (case.folder, case.valid)]
    new, old = map(flatten, stats)
    for name, before in old.items():
        values = np.array(new[name])
        if values.shape != np.shape(before) or values.dtype.kind not in "if" or not np.isfinite(values).all():
            raise Wrong(f"statistics {name} became {new[name]!r:.60}")


def verify_set(case: Case) -> None:
    """What is verified is what was recorded."""
    if verify(open_recording(case.folder / "set")):
        check_dataset(case.folder / "set")
        new, old = read_frames(case.folder / "set"), read_frames(case.valid / "set")
        for name in [name for name in old if name != "observation.image"]:
            if not np.allclose(*(np.stack(each[name]).astype(float) for each in (new, old)), atol=0.01):
                raise Wrong(f"{name} was verified, and is not as it was recorded")


def open_people(case: Case) -> None:
    """Demonstrations are of PushT, and nothing in them is made up."""
    path = case.folder / ("people.npz" if case.changed.endswith("npz") else "people.zarr")
    people = PeoplesDemonstrations(path, 0, hindsight=False)
    next(people.read(0))
    arrays = people.arrays
    if not case.path.is_file():
        raise Wrong("an array was made up for a file that is missing")
    off = max(np.abs(array - 256).max() for array in (arrays.states[:, :4], arrays.actions))
    if off > 300 or len(arrays.actions) != arrays.ends[-1]:
        raise Wrong(f"demonstrations {off:.3g} px from the middle of the board, with ends {arrays.ends}")


STATE = "training_state"
SAC, ACT = (f"logs/run/checkpoints/step_{steps:08d}" for steps in (120, 3))
MODEL, RUN = f"{ACT}/pretrained_model", "logs/run/config.yaml logs/run/metrics.csv"
FLOW, DIFFUSION = (f"logs/{name}/checkpoints/step_00000003" for name in ("flow", "diffusion"))
POLICY = "config.json policy_preprocessor.json policy_postprocessor.json task.json"
FROZEN = "frozen/config.json frozen/model.safetensors"
FILE = "chunk-000/file-000.parquet"
FILM = "set/videos/observation.image/chunk-000/file-000.mp4"


def names(folder: str, files: str) -> str:
    return " ".join(f"{folder}/{file}" for file in files.split())


SET = names("set/meta", f"info.json stats.json recording.json tasks.parquet episodes/{FILE} episodes/{FILE}")
SET += f" set/data/{FILE} set/data/{FILE}"


def _target(name: str, source: str, files: str, opened: Callable, cost: float = 1.0, **more: Any) -> Target:
    return Target(name, source, tuple(files.split()), opened, cost, **more)


def _flags(name: str, source: str, config_class: Callable, *script: Callable) -> Target:
    change = partial(change_flags, config_class)
    return _target(name, source, "flags.json", partial(with_flags, *script), change=change, writes=True)


resume_sac = partial(go_on, train_sac.main, sac_flags, "--total-env-steps 140")
sac = train_sac.read_config, train_sac.main, sac_flags
ours = train_act.read_config, train_act.main, act_flags
evaluation = partial(parse, evaluate.Config), evaluate.main, evaluate_flags
recording = partial(parse, collect_dataset.Config), collect_dataset.main, collect_flags
ALL = [
    _target("sac_yaml", "sac", "config.yaml", partial(with_yaml, *sac)),
    _target("act_yaml", "act", "config.yaml", partial(with_yaml, *ours), 2),
    _flags("sac_flags", "sac", lambda: type(train_sac.read_config([])), *sac),
    _flags("act_flags", "act", lambda: type(train_act.read_config([])), *ours),
    _flags("evaluate_flags", "sac", lambda: evaluate.Config, *evaluation),
    _flags("collect_flags", "sac", lambda: collect_dataset.Config, *recording),
    _target("demo_flags", "sac", "flags.json", with_demo,
            change=partial(change_flags, lambda: evaluate.Config)),
    _target("sac_policy", "sac", names(SAC, "config.json config.json model.safetensors"), play),
    _target("frames_policy", "frames", names(SAC, "config.json model.safetensors"), play),
    _target("steered_policy", "steered", names(SAC, f"config.json model.safetensors {FROZEN}"), play),
    _target("flow_policy", "steered", names(f"{FLOW}/pretrained_model", f"{POLICY} model.safetensors"),
            partial(play, run="flow")),
    _target("diffusion_policy", "steered", names(f"{DIFFUSION}/pretrained_model", f"""{POLICY}
            model.safetensors"""), partial(play, run="diffusion")),
    _target("act_policy", "act", names(MODEL, f"""{POLICY} model.safetensors
        policy_preprocessor_step_3_normalizer_processor.safetensors"""), play),
    _target("sac_resume", "sac", f"{RUN} " + names(SAC, f"""{STATE}/counters.json {STATE}/tensors.safetensors
            config.json"""), resume_sac),
    _target("frames_resume", "frames", names(SAC, f"""{STATE}/counters.json {STATE}/tensors.safetensors
            {STATE}/frames/00000000.uint8 config.json"""), resume_sac),
    _target("steered_resume", "steered", f"{RUN} " + names(SAC, f"""{STATE}/counters.json
            {STATE}/tensors.safetensors config.json {FROZEN}"""), resume_sac),
    _target("act_resume", "act", RUN + " " + names(f"{ACT}/{STATE}", """trainer.json training_step.json
        trainer.safetensors optimizer_state.safetensors optimizer_param_groups.json rng_state.safetensors
        scheduler_state.json"""), partial(go_on, train_act.main, act_flags, "--steps 4"), 2),
    _target("act_start", "act", names(ACT, f"{STATE}/training_step.json pretrained_model/train_config.json"),
            start_from, 3),
    _target("act_keypoints", "act", SET, learn_from),
    _target("act_pictures", "pictures", SET, learn_from, 3),
    _target("act_films", "films", f"{SET} {FILM} {FILM}", learn_from, 3),
    _target("sac_demonstrations", "act", SET, learn_offline),
    _target("recorded_keypoints", "act", SET, add_to),
    _target("recorded_pictures", "pictures", SET, add_to, 2),
    _target("recorded_films", "films", f"{SET} {FILM} {FILM}", add_to, 5),
    _target("verify", "pictures", SET, verify_set),
    _target("people", "people", "people.npz " + names("people.zarr", """state/.zarray state/0.0
        action/.zarray action/0.0 episode_ends/.zarray episode_ends/0"""), open_people),
]  # fmt: skip
TARGETS = {target.name: target for target in ALL}
