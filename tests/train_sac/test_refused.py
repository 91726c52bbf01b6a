"""Misuse from the command line: one sentence, exit code 2, and nothing is lost."""

import shutil
from pathlib import Path

import pytest
import torch

import train_sac
from common.checkpoint import save_tensors
from common.run import only_process_in
from common.untrusted import load_tensors
from tests.runs import run_script, sentence
from tests.train_sac.runs import MORE

pytestmark = pytest.mark.slow

SCRIPT = Path(train_sac.__file__)

BAD_FLAGS = {
    "negative lr": ("--agent.lr -1e-3", "agent.lr must be positive, got -0.001"),
    "lr not a number": ("--agent.lr nan", "agent.lr must be a finite number, got nan"),
    "limit not a number": ("--env.speed-limit nan 15", "env.speed_limit must be a finite number, got nan"),
    "wrong type": ("--agent.lr fast", "--agent.lr: expected float, got 'fast'"),
    "wrong type of many": ("--agent.hidden-sizes 16 wide", "--agent.hidden-sizes: expected a list of int"),
    "batch larger than buffer": ("--agent.batch-size 701", "agent.batch_size must be at most", "got 701"),
    "buffer for no step": ("--agent.n-step 400", "buffer_capacity must be at least", "800, got 700"),
    "unknown reward": ("--env.reward lavish", "--env.reward: expected one of stock", "got 'lavish'"),
    "unknown feature": ("--env.features smell", "env.features must be of agent_pos", "got smell"),
    "unknown action mode": ("--env.action-mode sideways", "expected one of absolute, relative"),
    "unknown flag": ("--agent.hiden-sizes 8", "unknown flag", "; did you mean --agent.hidden-sizes?"),
    "unknown device": ("--device abacus", "--device: expected one of auto, cpu, cuda, mps, got 'abacus'"),
    "no environments": ("--env.num-envs 0", "env.num_envs must be at least 1, got 0"),
    "curriculum beyond 1": ("--env.curriculum 1.5", "env.curriculum must be between 0 and 1, got 1.5"),
    "gamma beyond 1": ("--agent.gamma 1.1", "agent.gamma must be between 0 and 1, got 1.1"),
    "more in the subset": ("--agent.target-subset 3", "target_subset must be at most", "2, got 3"),
    "no updates": ("--training.utd 0", "training.utd must be positive, got 0.0"),
    "no evaluation": ("--training.eval-every -1", "training.eval_every must not be negative, got -1"),
    "unknown task": ("--task pushed", "task must be one of", "got 'pushed'; did you mean pusht?"),
    "another task's setting": ("--env.reward_scales 1", "unknown flag", "did you mean --env.reward-scale?"),
    "another task than the configuration's": (
        "--task pendulum --env.curriculum 0.1",
        "is an experiment on task pusht, not pendulum",
    ),
    "before the beginning": ("--training.start-steps -1", "training.start_steps must not be negative"),
    "greedy beyond 1": (
        "--training.greedy-share 2",
        "training.greedy_share must be between 0 and 1, got 2.0",
    ),
    "nothing to learn": ("--total-env-steps 100", "total_env_steps must be more than training.start_steps"),
    "no best": ("--training.best-from 1201", "training.best_from must be at most total_env_steps, 1200"),
    "run elsewhere": ("--run-name ../run", "run_name must be the name of a folder, not a path, got ../run"),
    "run above": ("--run-name ..", "run_name must be the name of a folder, not a path, got .."),
    "run too long": (f"--run-name {'x' * 201}", "run_name must have at most 200 bytes, got 201"),
    "negative seed": ("--seed -1", "seed must not be negative, got -1"),
    "negative threads": ("--threads -1", "threads must not be negative, got -1"),
}


def test_a_buffer_beyond_the_memory(refused, train):
    assert "does not fit into the memory" in refused("--training.buffer-capacity", "1000000000000000")
    train("--total-env-steps", "120")  # what never began binds no one


@pytest.mark.parametrize(("flags", "words"), [(f, w) for f, *w in BAD_FLAGS.values()], ids=BAD_FLAGS)
def test_bad_flags(refused, tmp_path, flags, words):
    told = refused(*flags.split())
    assert [word for word in words if word not in told] == []
    assert not (tmp_path / "run").exists()


BAD_YAML = {
    "unknown key": ("agent: {batchsize: 8}", "unknown key agent.batchsize; did you mean agent.batch_size?"),
    "unknown part": ("agents: {lr: 1e-3}", "unknown key agents.lr; did you mean agent.lr?"),
    "wrong type": ("seed: one", "seed: expected int, got 'one'"),
    "impossible value": ("agent: {lr: -1}", "agent.lr must be positive, got -1"),
    "no mapping": ("- lr", "expected lines of the form 'key: value'"),
    "not YAML": ("agent: {lr: ", "not valid YAML"),
}


@pytest.mark.parametrize(("text", "words"), BAD_YAML.values(), ids=BAD_YAML)
def test_bad_yaml(refused, tmp_path, text, words):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    told = refused("--config", str(path))
    assert words in told
    assert not (tmp_path / "run").exists()


def test_missing_yaml(refused, tiny):
    near = tiny.with_name("tyni.yaml")
    assert refused("--config", str(near)) == f"{near}: no such file; did you mean {tiny}?"


def test_cuda_where_there_is_none(refused, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "device cuda is not available to PyTorch here" in refused("--device", "cuda")


def test_logs_that_cannot_be_written(refused, tmp_path):
    (tmp_path / "file").touch()
    assert "run: cannot be written: Not a directory" in refused("--logs", str(tmp_path / "file"))


def test_another_process_in_the_folder(refused, started):
    config = (started / "config.yaml").read_text()
    with only_process_in(started):
        assert refused(*MORE) == f"{started}: another process is training there"
    assert (started / "config.yaml").read_text() == config


def test_resumed_with_another_configuration(refused, started):
    told = refused(*MORE, "--agent.lr", "0.1", "--env.reward", "stock")
    assert "(env.reward: log_barrier -> stock; agent.lr: 0.002 -> 0.1)" in told


def test_fewer_steps_than_it_has_had(refused, started):
    told = refused("--total-env-steps", "300")
    assert (
        told
        == f"{started} has been trained for 1,200 env steps already: total_env_steps must be more, got 300"
    )


def test_wandb_without_a_login(refused, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    assert refused("--wandb-project", "pusht").startswith("wandb_project pusht: ")


def spoil_tensors(state: Path) -> None:
    with (state / "tensors.safetensors").open("r+b") as file:
        file.truncate(5_000)


def spoil_counters(state: Path) -> None:
    (state / "counters.json").unlink()


def spoil_state(state: Path) -> None:
    shutil.rmtree(state)


def spoil_layout(state: Path) -> None:
    tensors = load_tensors(state / "tensors.safetensors")
    save_tensors(state / "tensors.safetensors", tensors | {"window.actions": torch.zeros(2, 3, 4)})


def spoil_folder(state: Path) -> None:
    shutil.rmtree(state.resolve().parent)


SPOILT = {
    "truncated tensors": (spoil_tensors, "tensors.safetensors: damaged"),
    "missing counters": (spoil_counters, "counters.json: missing"),
    "missing state": (spoil_state, "counters.json: missing"),
    "another layout": (spoil_layout, "training_state: not the state of such a training"),
    "missing checkpoint": (spoil_folder, "last leads to step_00001200, which is gone"),
}


@pytest.mark.parametrize(("spoil", "words"), SPOILT.values(), ids=SPOILT)
def test_spoilt_checkpoints(refused, started, spoil, words):
    spoil(started / "checkpoints" / "last" / "training_state")
    assert words in refused(*MORE)


def test_the_exit_code_and_the_sentence_of_the_real_command():
    done = run_script(SCRIPT, "--agent.lr", "-1", cwd=SCRIPT.parent)
    assert (done.returncode, done.stdout) == (2, "")
    assert sentence(done.stderr) == "agent.lr must be positive, got -1.0"
