"""A Gymnasium environment as a task: a subclass names it and says what is different (`envs/pendulum.py`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from gymnasium import spaces

from common.bounds import ParallelEnvs, Positive, Several
from envs.gym_vector import BoxCodec, GymVectorEnv, Success
from envs.interfaces import Codec, Episode, Metric, Motion, Policy, VectorEnv
from envs.plots import plot_returns
from envs.summary import RETURN, has_success, summarize
from envs.training import TaskTrainingEnv


@dataclass(frozen=True)
class GymTask:
    """An environment with a box of observations and a box of actions, as the agent meets it in training."""

    name: ClassVar[str]  # as `gymnasium.make` takes it
    sentence: ClassVar[str] = ""
    fps: ClassVar[int] = 30
    success: ClassVar[Success] = "none"  # "termination", or "info": what `info["is_success"]` says
    metrics: ClassVar[tuple[Metric, ...]] = (RETURN,)
    progress_name: ClassVar[str] = ""
    progress_goal: ClassVar[float] = 1.0
    must_move: ClassVar[Motion | None] = None
    highlights: ClassVar[tuple[str, ...]] = ()
    action_settings: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ("gymnasium",)
    lerobot_names: ClassVar[dict[str, str]] = {"observation.state": "state"}

    num_envs: ParallelEnvs = 1  # environments stepped together
    action_repeat: Several = 1  # environment steps per decision
    reward_scale: Positive = 1.0  # multiplies the reward

    def validate(self) -> None:
        if self.success == "none" and has_success(self):
            raise ValueError("success must be termination or info for the metric success rate, got none")

    def vector_env(self, num_envs: int, image_size: int = 0, stock: bool = False) -> VectorEnv:
        return GymVectorEnv(self.name, num_envs, self.success)

    def codec(self, num_envs: int) -> Codec:
        return BoxCodec(*_spaces(self.name))

    def training_env(self, seed: int, gamma: float, image_size: int = 0) -> TaskTrainingEnv:
        env = self.vector_env(self.num_envs, image_size)
        return TaskTrainingEnv(self, env, seed, gamma, reward_scale=self.reward_scale)

    def scripted_policy(self) -> Policy | None:
        return None

    def summarize(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        return summarize(episodes)

    def rank(self, summary: dict[str, Any]) -> tuple[float, ...]:
        """Higher success, where there is one; then a higher return."""
        return summary.get("success_rate", 0.0), summary["avg_sum_reward"]

    def plot(self, folder: Path, stem: str, episodes: Sequence[Episode], title: str) -> list[Path]:
        plot_returns(folder / f"{stem}_returns.png", episodes, title)
        return [folder / f"{stem}_returns.png"]


@cache
def _spaces(name: str) -> tuple[spaces.Box, spaces.Box]:
    env = GymVectorEnv(name, 1)
    return env.state_space, env.single_action_space
