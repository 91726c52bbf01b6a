"""Play a policy and measure it: success rate with its interval, numbers as JSON, pictures, videos.

    python evaluate.py                                             the newest run, or else the shipped expert
    python evaluate.py --policy logs/sac_pusht_seed1 --env stock   one run, in gym_pusht as published
    python evaluate.py --policy scripted --episodes 20 --record    with videos
    python evaluate.py --policy logs/flow_pusht_human_seed1 --steerability     what its noise can do

Episode i plays seed `--seed` + i, so the same flags play the same episodes.
"""

import common.start  # noqa: F401  before all other imports

# isort: split

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Annotated, Any, Literal

import numpy as np
from tqdm import tqdm

from common.bounds import MOST_THREADS, Between, Count, CountOrZero, ParallelEnvs, Seed, Several
from common.checkpoint import save_json
from common.config import parse
from common.device import choose_device, use_threads
from common.errors import UserError, report_user_errors
from common.provenance import provenance
from common.run import command_line
from common.untrusted import check_inside, writing
from common.video import write_gif, write_video
from envs import steerability, summary
from envs.films import film, mosaic
from envs.interfaces import Episode, Policy, Steerable, Task, VectorEnv
from envs.rollout import replay_episode, rollout
from envs.tasks import task_class
from policies import WITHOUT_FOLDER, default_policy, find_checkpoint, load_policy, task_of


@dataclass(frozen=True)
class Config:
    """How to evaluate."""

    policy: str | None = None  # a run, a checkpoint, random or scripted; None: newest run, else the expert
    task: str | None = None  # see envs/tasks.py; None: the policy's own, pusht for random and scripted
    episodes: Count = 500  # one seed each
    seed: Seed = 100_000  # of the first episode; best checkpoints are chosen on other seeds, from 10,000
    env: Literal["fast", "stock"] = "fast"  # stock: as its authors published it; fast: the same, faster
    sampled: bool = False  # draw actions from the policy's distribution instead of taking its mode
    steerability: bool = False  # measure instead how far the policy can be steered by its noise
    best_of: Several = 8  # draws of noise from the same start, with --steerability
    escape: bool = True  # a SAC's mode gets away from where it is stuck (sac/escape.py)
    n_action_steps: int | None = None  # of a chunk played before the policy looks again; None: as trained
    temporal_ensemble_coeff: float | None = None  # average overlapping chunks; ACT's authors: 0.01
    record: bool = False  # write videos
    videos: CountOrZero = 10  # episodes recorded with --record, from the first seed on; six share a GIF
    failure_videos: CountOrZero = 3  # failed episodes recorded besides
    output: Path | None = None  # folder; None: the policy's run, or logs/evaluate/<policy>
    json: Path | None = None  # file of the numbers; None: evaluation_<checkpoint>.json in the output folder
    num_envs: ParallelEnvs = 100  # episodes played at a time
    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"  # of the networks; small ones are fast there
    threads: Annotated[int, Between(1, MOST_THREADS)] = 1  # CPU threads of PyTorch

    def validate(self) -> None:
        if self.policy == "":
            raise ValueError("policy must not be empty")
        if self.steerability and (self.sampled or self.record):
            raise ValueError("steerability plays with and without noise, without --sampled and --record")
        if self.best_of != type(self).best_of and not self.steerability:
            raise ValueError("best_of counts the draws of --steerability, which is not given")
        if self.json and self.json.is_dir():
            raise ValueError(f"json must be a file to write, got the folder {self.json}")


def play(env: VectorEnv, policy: Policy, seeds: range) -> list[Episode]:
    """One episode per seed, in their order."""
    episodes, successes = [], 0
    with tqdm(total=len(seeds), unit="episode", desc="playing", dynamic_ncols=True, disable=None) as bar:
        try:
            for episode in rollout(env, policy, seeds, keep_pixels=False):
                episodes.append(episode)
                if episode.success is not None:
                    successes += episode.success
                    bar.set_postfix_str(f"success {successes} of {len(episodes)}", refresh=False)
                bar.update()
        except KeyboardInterrupt:
            raise UserError(
                f"interrupted after {len(episodes)} of {len(seeds)} episodes; nothing is written, because "
                "the episodes that end first are no fair sample: use fewer --episodes"
            ) from None
    return sorted(episodes, key=lambda episode: episode.seed)


def measure(
    config: Config, name: str, task: Task, policy: Policy, env: VectorEnv
) -> tuple[dict[str, Any], dict[str, str], list[Episode]]:
    """The numbers asked for, the same as people read them, and the episodes that plots are drawn of.

    Raises:
        UserError: it is to be steered and cannot be.
    """
    seeds = range(config.seed, config.seed + config.episodes)
    if not config.steerability:
        episodes = play(env, policy, seeds)
        numbers = task.summarize(episodes)
        most = {"max reward": f"{numbers['avg_max_reward']:.3f}"}
        return numbers, summary.table(task, numbers) | most, episodes
    if not isinstance(policy, Steerable):
        raise UserError(f"{name}: cannot be steered: its actions are made of no noise, an authority of 0")
    if not summary.has_success(task):
        raise UserError(f"{name}: steerability is counted in successes, and {task.name} has none")
    observations = steerability.visited(env, policy, seeds[: steerability.EPISODES])
    numbers: dict[str, Any] = steerability.spreads(policy, observations, np.random.default_rng(config.seed))
    steerability.check_authority(numbers, name)
    numbers |= steerability.successes(policy, lambda: play(env, policy, seeds), config.best_of)
    return numbers, steerability.table(numbers), []


def circumstances(config: Config, name: str, task: Task, policy: Policy, command: str) -> dict[str, Any]:
    """All that is needed to get the same numbers again."""
    return {
        "seeds": [config.seed, config.seed + config.episodes - 1],
        "task": task.name,
        "env": config.env,
        "policy": name,
        "n_action_steps": policy.n_action_steps,
        "temporal_ensemble_coeff": getattr(policy, "temporal_ensemble_coeff", None),
        "sampled": config.sampled,
        "escape": config.escape,
        "num_envs": config.num_envs,
        "command": command,
    } | provenance("torch", "numpy", *task.packages)


def table(task: Task, numbers: dict[str, Any], rows: dict[str, str]) -> str:
    """The numbers as people read them: `rows`, and around them how they were measured."""
    first, last = numbers["seeds"]
    decisions = f"every {numbers['n_action_steps']} steps" if numbers["n_action_steps"] > 1 else "every step"
    if numbers["temporal_ensemble_coeff"] is not None:
        decisions += ", average of overlapping chunks"
    ways = {"sampled actions": numbers["sampled"], "no escape": not numbers["escape"]}
    rows = {
        "policy": ", ".join([numbers["policy"], *(way for way, taken in ways.items() if taken)]),
        "episodes": f"{numbers['episodes']} of {_where(numbers, task)}, seeds {first} to {last}",
        **rows,
        "decides": decisions,
        "wall time": f"{numbers['wall_s']:.1f} s",
    }
    return "\n".join(f"  {name:<18}{text}" for name, text in rows.items())


def draw(folder: Path, stem: str, task: Task, episodes: Sequence[Episode], numbers: dict) -> list[Path]:
    """The task's plots, titled with its first metric."""
    name, value = next(iter(summary.table(task, numbers).items()))
    title = f"{numbers['policy']} on {_where(numbers, task)}\n{name} {value}"
    return task.plot(folder, stem, episodes, title)


def _where(numbers: dict[str, Any], task: Task) -> str:
    return f"stock {task.name}" if numbers["env"] == "stock" else task.name


def record(folder: Path, stem: str, task: Task, episodes: Sequence[Episode], config: Config) -> list[Path]:
    """Videos of the first episodes and of the first failures.

    Their actions are played again, one episode at a time: recording neither disturbs the evaluation nor holds
    the frames of more than one episode.
    """
    failures = [episode for episode in episodes[config.videos :] if episode.success is False]
    env, paths = task.vector_env(1, stock=config.env == "stock"), []
    for episode in tqdm(
        [*episodes[: config.videos], *failures[: config.failure_videos]], desc="recording", disable=None
    ):
        again = replay_episode(env, episode, frame_size=512)
        names = {
            outcome: folder / f"{stem}_{episode.seed}_{word}.mp4"
            for outcome, word in ((True, "success"), (False, "failure"), (None, "episode"))
        }
        for earlier in names.values():
            with writing(earlier):
                earlier.unlink(missing_ok=True)
        paths.append(names[episode.success])
        write_video(paths[-1], film(again, task), task.fps)
    paths.append(folder / f"{stem}.gif")
    together = [replay_episode(env, episode, frame_size=192) for episode in episodes[:6]]
    write_gif(paths[-1], mosaic(together), task.fps)
    return paths


def destination(name: str, config: Config) -> tuple[Path, str]:
    """The folder to write to, and what the files are called after: the checkpoint and how it is played."""
    checkpoint = Path(name).absolute()
    stem = checkpoint.name
    if config.env == "stock":
        stem += "_stock"
    if config.sampled:
        stem += "_sampled"
    if not config.escape:
        stem += "_no_escape"
    if config.n_action_steps is not None:
        stem += f"_n{config.n_action_steps}"
    if config.temporal_ensemble_coeff is not None:
        stem += f"_ensemble{config.temporal_ensemble_coeff:g}"
    if config.output:
        return config.output, stem
    if checkpoint.parent.name == "checkpoints":
        return Path(os.path.relpath(checkpoint.parent.parent)), stem
    name = f"{checkpoint.name}_{config.task}" if config.task else checkpoint.name
    return Path("logs/evaluate") / name, stem


def write_numbers(path: Path, numbers: dict[str, Any], is_named: bool) -> None:
    """Write JSON, into a device such as /dev/stdout only where `--json` names it."""
    if is_named and path.exists() and not path.is_file():
        path.write_text(json.dumps(numbers, indent=2) + "\n")
    else:
        save_json(path, numbers)


@report_user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, description=__doc__)
    use_threads(config.threads)
    if config.task is not None:
        task_class(config.task)
    name = str(config.policy or default_policy(config.task))
    name = name if name in WITHOUT_FOLDER else str(find_checkpoint(name))
    task = task_of(name, config.task)
    policy = load_policy(
        name,
        choose_device(config.device),
        not config.sampled,
        config.seed,
        config.n_action_steps,
        config.temporal_ensemble_coeff,
        task,
        config.escape,
    )
    folder, stem = destination(name, config)
    what = "steerability" if config.steerability else "evaluation"
    json_path = config.json or folder / f"{what}_{stem}.json"
    for name_below in ("plots", "videos"):
        check_inside(folder / name_below, folder)
    with writing(folder, "; --output takes another folder"):
        for needed in (folder if config.steerability else folder / "plots", json_path.parent):
            needed.mkdir(parents=True, exist_ok=True)

    num_envs = min(config.num_envs, config.episodes)
    env = task.vector_env(num_envs, policy.image_size, stock=config.env == "stock")
    started = perf_counter()
    numbers, rows, episodes = measure(config, name, task, policy, env)
    numbers |= circumstances(config, name, task, policy, command_line("evaluate.py", argv))
    numbers["wall_s"] = round(perf_counter() - started, 2)
    print(table(task, numbers, rows))

    with writing(folder):
        write_numbers(json_path, numbers, is_named=config.json is not None)
        paths = [json_path]
        if episodes:
            paths += draw(folder / "plots", stem, task, episodes, numbers)
    if config.record:
        try:
            paths += record(folder / "videos", stem, task, episodes, config)
        except KeyboardInterrupt:
            raise UserError(f"interrupted while recording videos; the numbers are in {json_path}") from None
    print("wrote", *paths, sep="\n  ")


if __name__ == "__main__":
    main()
