"""Pendulum-v1 of Gymnasium: swing a pendulum up and hold it there. Solved: a mean return of -200 or more."""

from dataclasses import dataclass
from typing import ClassVar

from common.bounds import Positive
from envs.gym_task import GymTask


@dataclass(frozen=True)
class Pendulum(GymTask):
    """Pendulum-v1 as the agent meets it in training."""

    name: ClassVar[str] = "Pendulum-v1"
    sentence: ClassVar[str] = "Swing the pendulum up and hold it upright."
    fps: ClassVar[int] = 20

    reward_scale: Positive = 0.1  # multiplies the reward, which is -16 to 0 per step


TASK = Pendulum
