"""evaluate.py as it is used, against a plain loop over gym_pusht sharing only the policy."""

import contextlib
import io
import json
import os
import re
import shlex
from itertools import pairwise
from pathlib import Path

import gym_pusht  # noqa: F401  registers gym_pusht/PushT-v0
import gymnasium
import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import evaluate
from envs.pusht.scripted import ScriptedPolicy
from sac.actor import Actor
from tests.runs import run_script

SCRIPT = Path(evaluate.__file__)
FIRST_SEED, EPISODES = 21, 4  # the script solves some of them and not others
DESIGNED_KEYS = {
    *("episodes", "success_rate", "success_ci95", "avg_max_reward", "avg_sum_reward", "mean_max_coverage"),
    *("mean_steps_to_success", "seeds", "env", "policy", "n_action_steps", "wall_s", "pc_success"),
}


@pytest.fixture(scope="module")
def plain():
    """One (rewards, coverages, targets, success) per seed: the scripted policy in the stock environment."""
    env, policy, episodes = gymnasium.make("gym_pusht/PushT-v0", obs_type="state"), ScriptedPolicy(), []
    for seed in range(FIRST_SEED, FIRST_SEED + EPISODES):
        env.reset(seed=seed)
        rewards, coverages, targets, ended = [], [], [], False
        while not ended:
            agent, block = env.unwrapped.agent, env.unwrapped.block
            pose = np.array([[*block.position, block.angle]])
            targets.append(policy.act({"agent_pos": np.array([agent.position]), "block_pose": pose})[0])
            _, reward, terminated, truncated, info = env.step(targets[-1])
            rewards.append(reward)
            coverages.append(info["coverage"])
            ended = terminated or truncated
        episodes.append((rewards, coverages, targets, terminated))
    return episodes


def run(folder, *flags):
    """Evaluate in a folder; what was printed."""
    printed = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(printed):
        evaluate.main(["--num-envs", "3", *flags])
    return printed.getvalue()


@pytest.fixture(scope="module", params=[pytest.param("fast", marks=pytest.mark.slow), "stock"])
def evaluated(request, tmp_path_factory):
    """A folder in which the scripted policy was evaluated, and what the script printed."""
    folder = tmp_path_factory.mktemp(request.param)
    flags = f"--env {request.param} --policy scripted --episodes {EPISODES} --seed {FIRST_SEED}"
    record = "--record --videos 1 --failure-videos 1" if request.param == "fast" else ""
    printed = run(folder, *flags.split(), *record.split(), "--json", "numbers.json")
    return request.param, folder, printed


@pytest.mark.slow
def test_numbers_are_those_of_a_plain_loop(evaluated, plain):
    env, folder, _ = evaluated
    numbers = json.loads((folder / "numbers.json").read_text())
    moves = [np.hypot(*(b - a)) for _, _, targets, _ in plain for a, b in pairwise(targets)]
    solved = [len(rewards) for rewards, _, _, success in plain if success]
    assert solved and len(solved) < EPISODES
    expected = {
        "episodes": EPISODES,
        "success_rate": len(solved) / EPISODES,
        "pc_success": 100 * len(solved) / EPISODES,
        "avg_max_reward": np.mean([max(rewards) for rewards, *_ in plain]),
        "avg_sum_reward": np.mean([sum(rewards) for rewards, *_ in plain]),
        "mean_max_coverage": np.mean([max(coverages) for _, coverages, *_ in plain]),
        "mean_steps_to_success": np.mean(solved),
        "action_step_mean": np.mean(moves),
        "action_step_p99": np.percentile(moves, 99),
    }
    assert {key: numbers[key] for key in expected} == pytest.approx(expected, rel=1e-9)
    assert numbers.keys() >= DESIGNED_KEYS
    assert (numbers["env"], numbers["policy"], numbers["n_action_steps"]) == (env, "scripted", 1)
    assert numbers["seeds"] == [FIRST_SEED, FIRST_SEED + EPISODES - 1]
    assert numbers["command"].startswith("python evaluate.py ") and f"--env {env}" in numbers["command"]


def test_it_ends_with_the_files_it_wrote(evaluated):
    env, folder, printed = evaluated
    stem = "scripted_stock" if env == "stock" else "scripted"
    written = printed.partition("wrote\n")[2].split()
    assert written[:3] == [
        "numbers.json",
        f"logs/evaluate/scripted/plots/{stem}_coverage.png",
        f"logs/evaluate/scripted/plots/{stem}_starts.png",
    ]
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == set(written)
    for picture in written[1:3]:
        assert imageio.imread(folder / picture).std() > 10  # not blank


def test_videos_show_the_first_episode_and_a_failure(evaluated, plain):
    env, folder, _ = evaluated
    if env == "stock":
        assert not list(folder.rglob("*.mp4"))
        return
    failure = next(i for i, (*_, success) in enumerate(plain) if not success and i > 0)
    names = {
        f"scripted_{FIRST_SEED + i}_{'success' if plain[i][3] else 'failure'}.mp4": i for i in (0, failure)
    }
    videos = {path.name: path for path in folder.rglob("*.mp4")}
    assert videos.keys() == names.keys()
    for name, i in names.items():
        with imageio.get_reader(videos[name]) as reader:
            about = reader.get_meta_data()
            frames = [frame[..., :3] for frame in reader]
        assert (about["fps"], about["codec"], about["pix_fmt"].split("(")[0]) == (10, "h264", "yuv420p")
        assert len(frames) == len(plain[i][0]) + 1
        assert frames[0].shape == (560, 512, 3)
        start, end = (frame[48:].astype(int) for frame in (frames[0], frames[-1]))
        assert np.abs(start - end).max() > 100  # something moved
        assert (np.abs(frames[-1][:48].astype(int) - frames[0][:48]) > 100).any()  # and the caption tells


def write_checkpoint(folder, **changes):
    """A tiny random actor."""
    folder.mkdir(parents=True)
    config = {"algorithm": "sac", "observation_size": 2, "action_size": 2, "hidden_sizes": [4]}
    config |= {"features": ["agent_pos"], "action_mode": "relative", "action_bound": 30.0, "action_repeat": 2}
    config |= {"action_frame": "board", "speed_limit": None}
    (folder / "config.json").write_text(json.dumps(config | changes))
    torch.manual_seed(0)
    save_file(Actor(2, 2, [4]).state_dict(), folder / "model.safetensors")
    return folder


def test_a_run_keeps_its_results_in_its_folder(tmp_path):
    """Without --policy: the newest run's best checkpoint."""
    write_checkpoint(tmp_path / "logs/tiny/checkpoints/best")
    run(tmp_path, "--episodes", "2", "--sampled", "--no-escape")
    numbers = json.loads((tmp_path / "logs/tiny/evaluation_best_sampled_no_escape.json").read_text())
    assert numbers.keys() >= DESIGNED_KEYS
    assert (numbers["policy"], numbers["n_action_steps"]) == ("logs/tiny/checkpoints/best", 2)
    assert numbers["seeds"] == [100_000, 100_001] and numbers["sampled"]
    assert numbers["mean_steps_to_success"] is None
    assert (tmp_path / "logs/tiny/plots/best_sampled_no_escape_coverage.png").exists()
    assert not (tmp_path / "logs/evaluate").exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--policy logs/nothing", "logs/nothing: no such folder"),
        ("--policy broken", "broken/config.json: missing"),
        ("", "no policy: no run in .*logs"),
        ("--policy ''", "policy must not be empty"),
        ("--polcy random", "unknown flag --polcy; did you mean --policy?"),
        ("--policy random --env slow", "--env: expected one of fast, stock, got 'slow'"),
        ("--policy random --episodes 0", "episodes must be at least 1, got 0"),
        ("--policy random --seed many", "--seed: expected int, got 'many'"),
        ("--policy random --seed 99999999999999999999", "seed must be at most 4611686018427387904"),
        ("--policy random --seed -1", "seed must not be negative, got -1"),
        ("--policy random --json broken", "json must be a file to write, got the folder broken"),
        ("--policy random --output file", "file/plots: cannot be written: .*; --output takes another folder"),
        ("--policy random --config none.yaml", "none.yaml: no such file"),
        ("--policy truncated", "truncated/model.safetensors: damaged"),
        ("--policy other_algorithm", "other_algorithm/config.json: algorithm must be sac, .* got 'ppo'"),
        ("--policy other_layout", "other_layout/config.json: observation_size must be 4, .* got 2"),
        ("--policy other_sizes", "other_sizes/model.safetensors: not the weights of an actor with layers of"),
        ("--policy random --device cuda", "device cuda is not available to PyTorch here"),
        ("--policy random --steerability", "random: cannot be steered: .* no noise, an authority of 0"),
        (
            "--policy random --steerability --sampled",
            "steerability plays with and without noise, without --s",
        ),
        ("--policy random --best-of 0", "best_of must be at least 1, got 0"),
        ("--policy random --best-of 4", "best_of counts the draws of --steerability, which is not given"),
    ],
)
def test_bad_input_is_answered_in_one_sentence(flags, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("policies.EXPERT", tmp_path / "no_expert")
    (tmp_path / "broken").mkdir()
    (tmp_path / "file").touch()
    os.truncate(write_checkpoint(tmp_path / "truncated") / "model.safetensors", 100)
    write_checkpoint(tmp_path / "other_algorithm", algorithm="ppo")
    write_checkpoint(tmp_path / "other_layout", features=["agent_pos", "block_pos"])
    write_checkpoint(tmp_path / "other_sizes", hidden_sizes=[5])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as exit_:
        evaluate.main(shlex.split(flags))
    printed = capsys.readouterr()
    assert exit_.value.code == 2
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith("error: ")
    assert re.search(message, line)


@pytest.mark.slow
def test_the_shell_sees_code_2_and_no_traceback(tmp_path):
    done = run_script(SCRIPT, "--policy", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: nowhere: no such folder")
    assert "Traceback" not in done.stderr
