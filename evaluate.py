"""Play a policy and measure it: success rate with its interval, numbers as JSON, pictures, videos.

    python evaluate.py                                             the newest run, or else the shipped expert
    python evaluate.py --policy logs/sac_pusht_seed1 --env stock   one run, in gym_pusht as published
    python evaluate.py --policy scripted --episodes 20 --record    with videos

Episode i plays seed `--seed` + i, so the same flags play the same episodes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from common.checkpoint import save_json
from common.config import parse
from common.device import choose_device, use_threads
from common.errors import UserError, report_user_errors
from common.provenance import provenance
from common.run import command_line
from common.video import write_gif, write_video
from envs.films import film, mosaic, plot_coverage, plot_starts
from envs.pusht.vector import PushTVectorEnv
from envs.rollout import Episode, Policy, rollout
from envs.summary import summarize
from policies import WITHOUT_FOLDER, Replay, default_policy, find_checkpoint, load_policy


@dataclass(frozen=True)
class Config:
    """How to evaluate."""

    policy: str | None = None  # a run, a checkpoint, random or scripted; None: newest run, else the expert
    episodes: int = 500  # one seed each
    seed: int = 100_000  # of the first episode; best checkpoints are chosen on other seeds, from 10,000
    env: Literal["fast", "stock"] = "fast"  # stock: gym_pusht/PushT-v0 itself; fast: the same bit for bit
    sampled: bool = False  # draw actions from the policy's distribution instead of taking its mode
    n_action_steps: int | None = None  # of an ACT's chunk played before it looks again; None: as trained
    temporal_ensemble_coeff: float | None = None  # average an ACT's overlapping chunks; its authors: 0.01
    record: bool = False  # write videos
    videos: int = 10  # episodes recorded with --record, from the first seed on
    failure_videos: int = 3  # failed episodes recorded besides
    output: Path | None = None  # folder; None: the policy's run, or logs/evaluate/<policy>
    json: Path | None = None  # file of the numbers; None: evaluation_<checkpoint>.json in the output folder
    num_envs: int = 100  # episodes played at a time
    device: Literal["auto", "cpu", "cuda", "mps"] = "cpu"  # of the networks; small ones are fast there
    threads: int = 1  # CPU threads of PyTorch

    def validate(self) -> None:
        if self.policy == "":
            raise ValueError("policy must not be empty")
        for name in ("episodes", "num_envs", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("seed", "videos", "failure_videos"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.seed + self.episodes > 2**63:
            raise ValueError(f"seed must be below 2^63, got {self.seed}")
        if self.json and self.json.is_dir():
            raise ValueError(f"json must be a file to write, got the folder {self.json}")


def play(env: PushTVectorEnv, policy: Policy, seeds: range) -> list[Episode]:
    """One episode per seed, in their order."""
    episodes, successes = [], 0
    with tqdm(total=len(seeds), unit="episode", desc="playing", dynamic_ncols=True, disable=None) as bar:
        try:
            for episode in rollout(env, policy, seeds):
                episodes.append(episode)
                successes += episode.success
                bar.set_postfix_str(f"success {successes} of {len(episodes)}", refresh=False)
                bar.update()
        except KeyboardInterrupt:
            raise UserError(
                f"interrupted after {len(episodes)} of {len(seeds)} episodes; nothing is written, for those "
                "that end first are no fair sample: ask for fewer --episodes"
            ) from None
    return sorted(episodes, key=lambda episode: episode.seed)


def circumstances(config: Config, name: str, policy: Policy, command: str) -> dict[str, Any]:
    """All that is needed to get the same numbers again."""
    return {
        "seeds": [config.seed, config.seed + config.episodes - 1],
        "env": config.env,
        "policy": name,
        "n_action_steps": policy.n_action_steps,
        "temporal_ensemble_coeff": getattr(policy, "temporal_ensemble_coeff", None),
        "sampled": config.sampled,
        "num_envs": config.num_envs,
        "command": command,
    } | provenance("torch", "numpy", "gym-pusht", "gymnasium", "pymunk")


def success(numbers: dict[str, Any]) -> str:
    low, high = (100 * bound for bound in numbers["success_ci95"])
    return f"{numbers['pc_success']:.1f} % (95 % interval {low:.1f} to {high:.1f})"


def table(numbers: dict[str, Any]) -> str:
    def value(key: str, form: str) -> str:
        return "-" if numbers[key] is None else format(numbers[key], form)

    first, last = numbers["seeds"]
    averaged = numbers["temporal_ensemble_coeff"] is not None
    moves, most = value("action_step_mean", ".1f"), value("action_step_p99", ".1f")
    rows = {
        "policy": numbers["policy"] + (", sampled actions" if numbers["sampled"] else ""),
        "episodes": f"{numbers['episodes']} of {numbers['env']} PushT, seeds {first} to {last}",
        "success": success(numbers),
        "steps to success": value("mean_steps_to_success", ".1f"),
        "max coverage": value("mean_max_coverage", ".3f"),
        "max reward": value("avg_max_reward", ".3f"),
        "sum of rewards": value("avg_sum_reward", ".1f"),
        "target moves": f"{moves} px per step, 99th percentile {most}",
        "decides every": f"{numbers['n_action_steps']} step{'s' * (numbers['n_action_steps'] > 1)}"
        + ", on the average of overlapping chunks" * averaged,
        "wall time": f"{numbers['wall_s']:.1f} s",
    }
    return "\n".join(f"  {name:<18}{text}" for name, text in rows.items())


def draw(folder: Path, stem: str, episodes: Sequence[Episode], goal: np.ndarray, numbers: dict) -> list[Path]:
    """Both pictures; `goal` is where the T's corners belong, (8, 2) pixels."""
    title = f"{numbers['policy']} on {numbers['env']} PushT\nsuccess {success(numbers)}"
    coverage, starts = folder / f"{stem}_coverage.png", folder / f"{stem}_starts.png"
    plot_coverage(coverage, episodes, title)
    plot_starts(starts, episodes, goal, title)
    return [coverage, starts]


def record(folder: Path, stem: str, episodes: Sequence[Episode], config: Config) -> list[Path]:
    """Videos of the first episodes and of the first failures.

    Their actions are played again, one episode at a time: recording neither disturbs the evaluation nor holds
    the frames of more than one episode.
    """
    failures = [episode for episode in episodes[config.videos :] if not episode.success]
    env, paths = PushTVectorEnv(1, config.env), []
    for episode in tqdm(
        [*episodes[: config.videos], *failures[: config.failure_videos]], desc="recording", disable=None
    ):
        (again,) = rollout(env, Replay(episode.actions), [episode.seed], frame_size=512)
        for earlier in folder.glob(f"{stem}_{episode.seed}_*.mp4"):
            earlier.unlink()
        paths.append(folder / f"{stem}_{episode.seed}_{'success' if episode.success else 'failure'}.mp4")
        write_video(paths[-1], film(again))
    return [*paths, record_together(folder / f"{stem}.gif", episodes[:6], env)]


def record_together(path: Path, episodes: Sequence[Episode], env: PushTVectorEnv) -> Path:
    """A GIF of a few episodes side by side."""
    again = [next(rollout(env, Replay(e.actions), [e.seed], frame_size=192)) for e in episodes]
    write_gif(path, mosaic(again))
    return path


def destination(name: str, config: Config) -> tuple[Path, str]:
    """The folder to write to, and what the files are called after: the checkpoint and how it is played."""
    checkpoint = Path(name).absolute()
    stem = checkpoint.name + "_stock" * (config.env == "stock") + "_sampled" * config.sampled
    if config.n_action_steps is not None:
        stem += f"_n{config.n_action_steps}"
    if config.temporal_ensemble_coeff is not None:
        stem += f"_ensemble{config.temporal_ensemble_coeff:g}"
    if config.output:
        return config.output, stem
    if checkpoint.parent.name == "checkpoints":
        return Path(os.path.relpath(checkpoint.parent.parent)), stem
    return Path("logs/evaluate") / checkpoint.name, stem


def make_folders(*folders: Path) -> None:
    for folder in folders:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{folder}: this folder cannot be made: {error.strerror}") from None


@report_user_errors()
def main(argv: Sequence[str] | None = None) -> None:
    config = parse(Config, argv, description=__doc__)
    use_threads(config.threads)
    name = str(config.policy or default_policy())
    name = name if name in WITHOUT_FOLDER else str(find_checkpoint(name))
    policy = load_policy(
        name,
        choose_device(config.device),
        not config.sampled,
        config.seed,
        config.n_action_steps,
        config.temporal_ensemble_coeff,
    )
    folder, stem = destination(name, config)
    json_path = config.json or folder / f"evaluation_{stem}.json"
    make_folders(folder / "plots", json_path.parent)

    env = PushTVectorEnv(min(config.num_envs, config.episodes), config.env, policy.pixels)
    started = perf_counter()
    episodes = play(env, policy, range(config.seed, config.seed + config.episodes))
    wall_s = round(perf_counter() - started, 2)
    command = command_line("evaluate.py", argv)
    numbers = summarize(episodes) | circumstances(config, name, policy, command) | {"wall_s": wall_s}
    print(table(numbers))

    try:
        save_json(json_path, numbers)
        paths = [json_path, *draw(folder / "plots", stem, episodes, env.goal_keypoints, numbers)]
    except OSError as error:
        raise UserError(f"{error.filename or folder}: cannot be written: {error.strerror}") from None
    if config.record:
        try:
            paths += record(folder / "videos", stem, episodes, config)
        except KeyboardInterrupt:
            raise UserError(f"interrupted while recording videos; the numbers are in {json_path}") from None
    print("wrote", *paths, sep="\n  ")


if __name__ == "__main__":
    main()
