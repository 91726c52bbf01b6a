"""Smoothed rewards, for tasks whose rewards come in rare, large pieces. Evaluation never sees them."""

import numpy as np

from envs.interfaces import Step


class RewardSmoothing:
    """An exponential average over the decisions of each environment's episode.

    After Lee et al. 2023, "DreamSmooth: Improving Model-based Reinforcement Learning via Reward Smoothing"
    (arXiv:2311.01450). Where an episode terminates, it pays what the average still owes, so that the sum of
    its rewards stays the same. A truncated one pays nothing more: its future is worth something.

    Args:
        share: weight of the average before in the next one; 0: off.
        num_envs: n.
    """

    def __init__(self, share: float, num_envs: int) -> None:
        self.share = share
        self.averages = np.zeros(num_envs)

    def __call__(self, step: Step) -> Step:
        """The step with smoothed rewards; the next one of an environment that ended begins anew."""
        averages = self.share * self.averages + (1 - self.share) * step.rewards
        owed = np.where(step.terminated, self.share / (1 - self.share) * averages, 0.0)
        self.averages = np.where(step.terminated | step.truncated, 0.0, averages)
        return step._replace(rewards=averages + owed)

    def state_dict(self) -> dict[str, np.ndarray]:
        return {"averages": self.averages.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Hold what `state_dict` returned; runs from before there was smoothing have nothing.

        Raises:
            ValueError: it is of other environments.
        """
        averages = state.get("averages", self.averages)
        if averages.shape != self.averages.shape:
            raise ValueError("the averages of rewards are not those of these environments")
        self.averages = averages.copy()
