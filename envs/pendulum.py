"""Pendulum-v1 of Gymnasium: swing a pendulum up and hold it there. Solved: a mean return of -200 or more."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from envs.gym_vector import BoxCodec, GymVectorEnv
from envs.plots import plot_returns
from envs.rollout import Episode
from envs.summary import RETURN, summarize
from envs.training import TrainingEnv


@dataclass(frozen=True)
class Pendulum:
    """Pendulum-v1 as the agent meets it in training."""

    name: ClassVar = "Pendulum-v1"
    sentence: ClassVar = "Swing the pendulum up and hold it upright."
    fps: ClassVar = 20
    max_episode_steps: ClassVar = 200
    highlights: ClassVar = ()
    packages: ClassVar = ("gymnasium",)
    lerobot_names: ClassVar = {"observation.state": "state"}
    progress_name: ClassVar = ""
    progress_goal: ClassVar = 1.0
    metrics: ClassVar = (RETURN,)

    num_envs: int = 1  # pendulums stepped together
    action_repeat: int = 1  # environment steps per decision
    reward_scale: float = 0.1  # multiplies the reward, of -16 to 0 per step

    def vector_env(self, num_envs: int, image_size: int = 0, stock: bool = False) -> GymVectorEnv:
        return GymVectorEnv("Pendulum-v1", num_envs)

    def codec(self, num_envs: int) -> BoxCodec:
        return BoxCodec(self.vector_env(1))

    def training_env(self, seed: int, gamma: float) -> TrainingEnv:
        env = self.vector_env(self.num_envs)
        return TrainingEnv(self, env, seed, gamma, reward_scale=self.reward_scale)

    def summarize(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        return summarize(episodes)

    def rank(self, summary: dict[str, Any]) -> tuple[float, ...]:
        return (summary["avg_sum_reward"],)

    def plot(self, folder: Path, stem: str, episodes: Sequence[Episode], title: str) -> list[Path]:
        plot_returns(folder / f"{stem}_returns.png", episodes, title)
        return [folder / f"{stem}_returns.png"]


TASK = Pendulum
