"""The loop on a task that takes no time, so that it can be stopped and killed at every single moment."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from common import checkpoint
from common.errors import UserError
from envs.summary import scalars
from sac.agent import SAC, AgentConfig
from sac.exploration import Detours
from sac.replay_buffer import NStepWindow, ReplayBuffer
from sac.trainer import Trainer, TrainingConfig

AGENT = AgentConfig(hidden_sizes=(4,), batch_size=4, n_step=2)
TRAINING = TrainingConfig(
    start_steps=12, utd=0.125, buffer_capacity=30, log_every=10, eval_every=20, keep_every=40, video_every=0
)
TOTAL_ENV_STEPS = 80
SEEDS = {"environment": 1, "torch": 2, "exploration": 3, "replay": 4}


class Walk:
    """Two points that are pushed along a line, from a random start to 1 or for seven steps."""

    num_envs, observation_size, action_size = 2, 2, 1
    symmetry = None

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.env_steps = 0
        self.arrays = {name: np.zeros(self.num_envs) for name in ("position", "age", "return")}

    def reset(self, mask: np.ndarray | None = None) -> np.ndarray:
        mask = np.ones(self.num_envs, bool) if mask is None else mask
        for array in self.arrays.values():
            array[mask] = 0.0
        self.arrays["position"][mask] = self.rng.normal(size=mask.sum())
        return self.observe()

    def step(self, actions: np.ndarray) -> tuple:
        self.arrays["position"] += actions[:, 0]
        self.arrays["age"] += 1
        self.arrays["return"] += self.arrays["position"]
        self.env_steps += self.num_envs
        terminated = self.arrays["position"] > 1.0
        infos = {
            "env_steps": self.env_steps,
            "return": self.arrays["return"].copy(),
            "usual_start": np.ones(self.num_envs, bool),
        }
        truncated = ~terminated & (self.arrays["age"] >= 7)
        return self.observe(), self.arrays["position"].copy(), terminated, truncated, infos

    def observe(self) -> np.ndarray:
        return np.stack([self.arrays["position"], self.arrays["age"]], axis=1).astype(np.float32)

    def state_dict(self) -> tuple[dict, dict[str, np.ndarray]]:
        return {"rng": self.rng.bit_generator.state, "env_steps": self.env_steps}, self.arrays

    def load_state_dict(self, state: dict, arrays: dict[str, np.ndarray]) -> np.ndarray:
        self.rng.bit_generator.state, self.env_steps = state["rng"], state["env_steps"]
        self.arrays = {name: array.copy() for name, array in arrays.items()}
        return self.observe()


def evaluate(actor: torch.nn.Module) -> dict:
    """Up and down from evaluation to evaluation, so that the best checkpoint is not always the last."""
    level = float(actor.mode(torch.zeros(1, 2)).abs())
    return {
        "success_rate": level * 1e4 % 1.0,
        "mean_steps_to_success": None,
        "mean_max_coverage": level,
        "avg_sum_reward": level,
        "action_step_mean": level,
        "action_step_p99": None,
    }


class Rows(list):
    """What a logger would write."""

    def log(self, step: int, scalars: dict[str, float]) -> None:
        self.append((step, {k: v for k, v in scalars.items() if not k.startswith("Throughput/")}))

    def video(self, step: int, frames: list) -> None:
        self.append((step, {"Rollout": frames}))


def make_trainer(
    folder: Path,
    agent: AgentConfig = AGENT,
    total: int = TOTAL_ENV_STEPS,
    training: TrainingConfig = TRAINING,
) -> Trainer:
    learner = SAC(2, 1, agent, total_updates=8, seed=SEEDS["torch"])
    env = Walk(SEEDS["environment"])
    return Trainer(training, total, env, learner, evaluate, lambda actor: None, {"a": 1}, folder, SEEDS)


def run(folder: Path, plays: int = 1000, **changes) -> tuple[Trainer, Rows]:
    """Start, or go on, as the script does, until the end or for so many plays."""
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
        "config": checkpoint.load_json(folder / "config.json"),
        "counters": checkpoint.load_json(state / "counters.json"),
        "model": {k: v.tolist() for k, v in checkpoint.load_tensors(folder / "model.safetensors").items()},
        "state": {k: v.tolist() for k, v in checkpoint.load_tensors(state / "tensors.safetensors").items()},
    }


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> tuple[Path, Rows]:
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, run(folder)[1]


@pytest.fixture(autouse=True)
def no_flush(monkeypatch):
    """A test pulls no plug, and waiting for the disk would be most of its time."""
    monkeypatch.setattr(checkpoint, "flush", lambda path: None)


def assert_same_run(folder: Path, other: Path) -> None:
    assert contents(folder / "checkpoints/last") == contents(other / "checkpoints/last")
    names = [sorted(path.name for path in (each / "checkpoints").iterdir()) for each in (folder, other)]
    assert names[0] == names[1]
    models = [
        checkpoint.load_tensors(each / "checkpoints/best/model.safetensors") for each in (folder, other)
    ]
    torch.testing.assert_close(*models, rtol=0, atol=0)


def test_the_loop_does_what_a_plain_one_does(uninterrupted):
    """Env steps, updates, logs, evaluations and checkpoints fall where counting on the fingers puts them."""
    folder, rows = uninterrupted
    counters = contents(folder / "checkpoints/last")["counters"]
    assert counters["env_steps"] == 80 and counters["updates"] == (80 - 12) // 8
    logged = [step for step, scalars in rows if "Eval/success_rate" not in scalars]
    evaluated = [step for step, scalars in rows if "Eval/success_rate" in scalars]
    assert logged == [10, 20, 30, 40, 50, 60, 70, 80] and evaluated == [20, 40, 60, 80]
    assert "Loss/critic1" not in rows[0][1] and "Loss/critic1" in rows[-2][1]

    rates = {step: scalars["Eval/success_rate"] for step, scalars in rows if "Eval/success_rate" in scalars}
    best = max(rates, key=rates.get)
    assert (folder / "checkpoints/best").readlink() == Path(f"step_{best:08d}")
    assert best != 80, "evaluate() above has to make an earlier checkpoint the best one"
    names = {f"step_{step:08d}" for step in (40, 80, best)} | {"best", "last"}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == names


@pytest.mark.parametrize(
    ("best_from", "expected"), [(0, [0, 1, 2, 3, 3, 3]), (4, [None, None, None, None, 4, 4])]
)
def test_the_best_succeeds_most_often_and_then_fastest(tmp_path, best_from, expected):
    trainer = make_trainer(tmp_path, training=replace(TRAINING, best_from=best_from))
    scores = iter([(0.0, None), (0.9, 20.0), (1.0, 31.0), (1.0, 29.0), (1.0, 30.0), (0.95, 10.0)])
    chosen = []
    for env_steps, (success_rate, steps) in enumerate(scores):
        trainer.env_steps = env_steps
        trainer.evaluate = lambda actor, found=(success_rate, steps): (
            evaluate(actor)
            | {
                "success_rate": found[0],
                "mean_steps_to_success": found[1],
            }
        )
        trainer._evaluate(Rows())
        chosen.append(trainer.best.get("env_steps"))
        assert (tmp_path / "checkpoints/best").exists() == (chosen[-1] is not None)
    assert chosen == expected


class Crowd(Walk):
    """Eight of them, as if the task had a mirror image, of whose episodes every other begins unusually."""

    num_envs = 8
    symmetry = np.array([0, 1]), np.array([-1, 1], np.float32), np.array([0]), np.array([-1], np.float32)
    usual = np.arange(8) % 2 == 0

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.played: list[np.ndarray] = []

    def step(self, actions: np.ndarray) -> tuple:
        self.played.append(actions)
        *outcome, infos = super().step(actions)
        return *outcome, infos | {"usual_start": self.usual}


def film(actor: torch.nn.Module) -> list:
    return actor.mode(torch.eye(2)).tolist()


def plain_loop(env: Crowd, agent: SAC) -> tuple[Rows, ReplayBuffer]:
    """The training that the next test configures, with its numbers in place of their names."""
    rng = np.random.default_rng(SEEDS["exploration"])
    detours = Detours(num_envs=8, action_size=1, count=4, rng=rng)
    window = NStepWindow(num_envs=8, observation_size=2, action_size=1, n_step=3, gamma=0.9)
    buffer = ReplayBuffer(capacity=200, observation_size=2, action_size=1, symmetry=Crowd.symmetry)
    sampling = torch.Generator().manual_seed(SEEDS["replay"])
    rows, returns, successes = Rows(), [], []
    observations = env.reset()
    for env_steps in range(8, 1401, 8):
        if env_steps <= 24:
            actions = rng.uniform(-1, 1, (8, 1)).astype(np.float32)
        else:
            actions = detours(agent.act(torch.from_numpy(observations), num_greedy=2).numpy())
        following, rewards, terminated, truncated, infos = env.step(actions)
        buffer.add(window.add(observations, actions, rewards, following, terminated, truncated))
        ended = terminated | truncated
        for i in (0, 2, 4, 6):  # where all episodes begin as usual
            if ended[i]:
                returns.append(infos["return"][i])
                successes.append(terminated[i])
        observations = env.reset(ended)
        if env_steps > 24:
            metrics = agent.update(buffer.sample(16, sampling))

        if env_steps % 80 == 0:
            rewards = {"Reward/episode": returns[-1], "Reward/mean_100": np.mean(returns[-100:])}
            metrics |= rewards | {"Episode/success_100": np.mean(successes[-100:])}
            rows.log(env_steps, {name: float(value) for name, value in metrics.items()})
        if env_steps % 200 == 0:
            rows.log(env_steps, scalars(evaluate(agent.averaged_actor)))
        if env_steps in (400, 800, 1200, 1400):  # each 400 and the end
            rows.video(env_steps, film(agent.averaged_actor))
    assert len(returns) > 100 and 0 < sum(successes) < len(successes)
    return rows, buffer


def test_actions_replay_numbers_and_weights_are_those_of_a_plain_loop(tmp_path):
    agents = [
        SAC(2, 1, AgentConfig((4,), batch_size=16, n_step=3, gamma=0.9, actor_ema=0.9), 172, SEEDS["torch"])
        for _ in range(2)
    ]
    envs = [Crowd(SEEDS["environment"]) for _ in range(2)]
    expected_rows, expected_buffer = plain_loop(envs[1], agents[1])

    training = TrainingConfig(
        start_steps=24,
        utd=0.125,
        greedy_share=0.25,
        detour_share=0.5,
        buffer_capacity=200,
        log_every=80,
        eval_every=200,
        video_every=400,
    )
    rows, trainer = Rows(), Trainer(training, 1400, envs[0], agents[0], evaluate, film, {}, tmp_path, SEEDS)
    assert trainer.train(rows, stop=lambda: False)
    np.testing.assert_array_equal(envs[0].played, envs[1].played)
    for stored, expected in zip(trainer.buffer.storage, expected_buffer.storage, strict=True):
        assert torch.equal(stored, expected)
    assert rows == expected_rows
    saved = contents(tmp_path / "checkpoints/last")
    averaged = {name: tensor.tolist() for name, tensor in agents[1].averaged_actor.state_dict().items()}
    assert saved["model"] == averaged
    for name, tensor in agents[1].state_dict().items():
        assert saved["state"][f"agent.{name}"] == tensor.tolist(), name


@pytest.mark.parametrize("plays", [1000, 17])
def test_what_evaluations_do_not_fall_on_comes_with_the_next(tmp_path, plays):
    often = replace(TRAINING, keep_every=30, video_every=30)
    rows = run(tmp_path, plays, training=often)[1] + run(tmp_path, training=often)[1]
    assert [step for step, shown in rows if "Rollout" in shown] == [40, 60, 80]
    kept = contents(tmp_path / "checkpoints/last")["counters"]["kept"]
    assert kept == ["step_00000040", "step_00000060"]


@pytest.mark.parametrize("plays", range(1, 40))
def test_stopped_anywhere_it_goes_on_bit_for_bit(uninterrupted, tmp_path, plays):
    folder, rows = uninterrupted
    first, first_rows = run(tmp_path, plays)
    assert first.env_steps == 2 * plays
    assert run(tmp_path, 0)[1] == []  # started and stopped at once
    _, later_rows = run(tmp_path)
    assert first_rows + later_rows == rows
    assert_same_run(tmp_path, folder)


def test_a_finished_run_trains_on(uninterrupted, tmp_path):
    folder, rows = uninterrupted
    first_rows = run(tmp_path, total=40)[1]
    assert run(tmp_path, total=40)[1] == []
    assert first_rows + run(tmp_path)[1] == rows
    assert_same_run(tmp_path, folder)


class Killed(BaseException):
    """No handler of errors catches it, as none runs after kill -9."""


class Killer:
    """An audit hook that ends the training at its n-th change of the disk and allows none after it."""

    CHANGES = ("open", "os.mkdir", "os.rename", "os.symlink", "os.remove", "os.rmdir")

    def __init__(self) -> None:
        self.armed, self.changes, self.deadline = False, 0, 0
        sys.addaudithook(self._hook)  # for ever: there is no way to remove one

    def run(self, folder: Path, deadline: int, plays: int = 1000) -> bool:
        """Whether the training lived to its end."""
        self.armed, self.changes, self.deadline = True, 0, deadline
        try:
            run(folder, plays)
        except Killed:
            return False
        finally:
            self.armed = False
        return True

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.armed and event in self.CHANGES and arguments[1] != "r":
            self.changes += 1
            if self.changes > self.deadline:
                raise Killed


@pytest.fixture(scope="module")
def killer() -> Killer:
    return Killer()


def assert_checkpoints_are_whole(checkpoints: Path) -> None:
    for folder in checkpoints.glob("[!.]*"):  # what `best` and `last` lead to among them
        checkpoint.load_tensors(folder / "model.safetensors")
        checkpoint.load_json(folder / "config.json")
    if (checkpoints / "last").is_symlink():
        contents(checkpoints / "last")


def test_killed_at_any_change_of_the_disk_it_goes_on(uninterrupted, tmp_path, killer):
    """Also when it is killed twice, and when it stops for a signal before it gets to where it was killed."""
    rng = np.random.default_rng(0)
    for deadline in range(10_000):
        folder = tmp_path / str(deadline)
        lived = killer.run(folder, deadline)
        if not lived:
            assert_checkpoints_are_whole(folder / "checkpoints")
            killer.run(folder, int(rng.integers(60)), plays=int(rng.integers(1, 12)))
            assert_checkpoints_are_whole(folder / "checkpoints")
            run(folder)
        assert_same_run(folder, uninterrupted[0])
        if lived:
            break
    assert deadline > 50


def test_weights_that_are_not_finite_never_become_a_checkpoint(tmp_path):
    trainer, _ = run(tmp_path, plays=25)
    with torch.no_grad():
        next(trainer.agent.actor.parameters())[0, 0] = float("nan")
    before = contents(tmp_path / "checkpoints/last")
    with pytest.raises(UserError, match=r"actor\.network\.0\.weight is not finite after 50 env steps"):
        trainer.save()
    assert contents(tmp_path / "checkpoints/last") == before
    saved = contents(tmp_path / "failed_00000050")
    assert np.isnan(saved["state"]["agent.actor.network.0.weight"][0][0])


def test_diverging_training_stops_before_the_next_log(tmp_path):
    run(tmp_path, plays=20)
    trainer = make_trainer(tmp_path)
    trainer.load(tmp_path / "checkpoints/last")
    trainer.buffer.storage.rewards[:] = float("inf")
    before = contents(tmp_path / "checkpoints/last")
    with pytest.raises(UserError, match="not finite after 50 env steps"):
        trainer.train(Rows(), stop=lambda: False)
    assert contents(tmp_path / "checkpoints/last") == before
    run(tmp_path)  # the run itself is not lost
    assert contents(tmp_path / "checkpoints/last")["counters"]["env_steps"] == 80


@pytest.mark.parametrize("damage", ["{}", "[]", '{"updates": "many"}', '{"updates": 3', None])
def test_damaged_counters_are_told(uninterrupted, tmp_path, damage):
    run(tmp_path, plays=20)
    counters = tmp_path / "checkpoints/last/training_state/counters.json"
    if damage is None:
        counters.unlink()
    else:
        counters.write_text(damage)
    with pytest.raises(UserError, match="training_state"):
        make_trainer(tmp_path).load(tmp_path / "checkpoints/last")


def test_a_state_of_other_networks_is_told_in_one_line(tmp_path):
    run(tmp_path, plays=20)
    trainer = make_trainer(tmp_path, agent=AgentConfig(hidden_sizes=(5,), batch_size=4, n_step=2))
    with pytest.raises(UserError, match="not the state of such a training: .*size mismatch") as caught:
        trainer.load(tmp_path / "checkpoints/last")
    assert "\n" not in str(caught.value)


def test_learning_waits_for_the_first_complete_transition(tmp_path):
    """Without random steps and with a long return, updates are due before anything can be sampled."""
    agent = AgentConfig(hidden_sizes=(4,), batch_size=4, n_step=5)
    learner = SAC(2, 1, agent, total_updates=40, seed=0)
    training = TrainingConfig(start_steps=0, utd=1.0, buffer_capacity=30, video_every=0)
    trainer = Trainer(training, 20, Walk(1), learner, evaluate, lambda actor: None, {}, tmp_path, SEEDS)
    trainer.train(Rows(), stop=lambda: False)
    assert learner.updates == 20
