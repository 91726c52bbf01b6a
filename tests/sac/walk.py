"""A training on a task that takes no time, so that it can be stopped and killed at every single moment."""

from pathlib import Path

import numpy as np
import torch

from common import checkpoint, untrusted
from envs.interfaces import Step
from sac.agent import SAC
from sac.config import AgentConfig
from sac.trainer import Trainer, TrainingConfig

AGENT = AgentConfig(hidden_sizes=(4,), batch_size=4, n_step=2)
TRAINING = TrainingConfig(
    start_steps=12, utd=0.125, buffer_capacity=30, log_every=10, eval_every=20, keep_every=40, video_every=0
)
TOTAL_ENV_STEPS = 80
SEEDS = {"environment": 1, "torch": 2, "exploration": 3, "replay": 4}


class Walk:
    """Two points that are pushed along a line, from a random start to 1 or for seven steps."""

    num_envs, observation_size, action_size, decision_steps = 2, 2, 1, 1
    pixel_shape, stack = None, 0
    symmetry = None

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.arrays = {name: np.zeros(self.num_envs) for name in ("position", "age", "return")}

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        mask = np.ones(self.num_envs, bool) if mask is None else mask
        for array in self.arrays.values():
            array[mask] = 0.0
        self.arrays["position"][mask] = self.rng.normal(size=mask.sum())
        return self.observe()

    def random_actions(self, rng: np.random.Generator) -> np.ndarray:
        return rng.uniform(-1, 1, (self.num_envs, self.action_size)).astype(np.float32)

    def step(self, actions: np.ndarray) -> Step:
        self.arrays["position"] += actions[:, 0]
        self.arrays["age"] += 1
        self.arrays["return"] += self.arrays["position"]
        terminated = self.arrays["position"] > 1.0
        return Step(
            observations=self.observe(),
            rewards=self.arrays["position"].copy(),
            terminated=terminated,
            truncated=~terminated & (self.arrays["age"] >= 7),
            durations=np.ones(self.num_envs, np.int64),
            is_success=terminated,
            returns=self.arrays["return"].copy(),
        )

    def observe(self) -> np.ndarray:
        return np.stack([self.arrays["position"], self.arrays["age"]], axis=1).astype(np.float32)

    def state_dict(self) -> tuple[dict, dict[str, np.ndarray]]:
        return {"rng": self.rng.bit_generator.state}, self.arrays

    def load_state_dict(self, state: dict, arrays: dict[str, np.ndarray]) -> np.ndarray:
        self.rng.bit_generator.state = state["rng"]
        self.arrays = {name: array.copy() for name, array in arrays.items()}
        return self.observe()


class Evaluation:
    """Up and down from evaluation to evaluation, so that the best checkpoint is not always the last."""

    fps = 10

    def summary(self, actor: torch.nn.Module) -> dict:
        return {"score": float(actor.mode(torch.zeros(1, 2)).abs()) * 1e4 % 1.0}

    def frames(self, actor: torch.nn.Module) -> list:
        return actor.mode(torch.eye(2)).tolist()

    def scalars(self, numbers: dict) -> dict:
        return {"Eval/score": numbers["score"]}

    def line(self, numbers: dict) -> str:
        return f"score {numbers['score']}"

    def rank(self, numbers: dict) -> tuple[float, ...]:
        return (numbers["score"],)


class Rows(list):
    """What a logger would write."""

    def log(self, step: int, scalars: dict[str, float]) -> None:
        self.append((step, {k: v for k, v in scalars.items() if not k.startswith("Throughput/")}))

    def video(self, step: int, frames: list, fps: int) -> None:
        assert fps == Evaluation.fps
        self.append((step, {"Rollout": frames}))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self.append((step, {name: picture}))


def make_trainer(
    folder: Path,
    agent: AgentConfig = AGENT,
    total: int = TOTAL_ENV_STEPS,
    training: TrainingConfig = TRAINING,
) -> Trainer:
    learner = SAC(2, 1, agent, total_updates=8, seed=SEEDS["torch"])
    env = Walk(SEEDS["environment"])
    return Trainer(training, total, env, learner, Evaluation(), {"a": 1}, folder, SEEDS)


def run(folder: Path, plays: int = 1000, **changes) -> tuple[Trainer, Rows]:
    """Start, or go on, as the script does, until the end or for so many plays."""
    folder.mkdir(parents=True, exist_ok=True)  # as the script does to hold it
    trainer, rows = make_trainer(folder, **changes), Rows()
    last = folder / "checkpoints" / "last"
    if last.exists():
        trainer.load(last)
    left = iter(range(plays))
    trainer.train(rows, stop=lambda: next(left, None) is None)
    return trainer, rows


def contents(folder: Path) -> dict:
    """Everything in a checkpoint, and fails where something is missing or damaged."""
    state = folder / checkpoint.TRAINING_STATE
    return {
        "config": untrusted.load_json(folder / "config.json"),
        "counters": untrusted.load_json(state / "counters.json"),
        "model": {k: v.tolist() for k, v in untrusted.load_tensors(folder / "model.safetensors").items()},
        "state": {k: v.tolist() for k, v in untrusted.load_tensors(state / "tensors.safetensors").items()},
    }


def assert_same_run(folder: Path, other: Path) -> None:
    assert contents(folder / "checkpoints/last") == contents(other / "checkpoints/last")
    names = [sorted(path.name for path in (each / "checkpoints").iterdir()) for each in (folder, other)]
    assert names[0] == names[1]
    models = [untrusted.load_tensors(each / "checkpoints/best/model.safetensors") for each in (folder, other)]
    torch.testing.assert_close(*models, rtol=0, atol=0)
