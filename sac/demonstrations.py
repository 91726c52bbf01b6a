"""Demonstrations first: updates from them before the first step, and a share of each batch then.

RLPD, Ball et al. 2023, "Efficient Online Reinforcement Learning with Offline Data" (arXiv:2302.02948): half
of each batch is drawn from the demonstrations. RLPD has no updates before the first environment step;
`offline.steps` adds them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.bounds import NotNegative, Share, Steps
from common.errors import UserError
from envs.demonstrations import Conversion, Demonstrations
from envs.interfaces import Task
from envs.steering import SteeringEnv
from envs.training import TaskTrainingEnv
from sac.config import AgentConfig
from sac.replay import Replay, make_replay
from sac.replay_buffer import Batch, Pixels
from sac.smoothing import RewardSmoothing

Drawn = tuple[Batch, torch.Tensor | None]  # and how much each of its actions is imitated, see `SAC.update`


@dataclass(frozen=True)
class OfflineConfig:
    """What is learnt from demonstrations."""

    dataset: str = ""  # folder of a LeRobot dataset of the task; empty: none
    steps: Steps = 0  # updates before the first environment step
    share: Share = 0.5  # of each batch afterwards
    until: Steps = 0  # environment steps for which that lasts; 0: always
    imitation: NotNegative = 0.0  # weight of the distance to their actions in the actor's loss

    def validate(self) -> None:
        for name in ("steps", "until", "imitation"):
            if getattr(self, name) and not self.dataset:
                raise ValueError(f"{name} must be 0 without offline.dataset, got {getattr(self, name)}")
        if self.share != type(self).share and not self.dataset:
            raise ValueError(f"share must be left out without offline.dataset, got {self.share}")


class OfflineData:
    """Demonstrations, held in the memory.

    Args:
        config: how they are mixed in.
        demonstrations: of the task.
        task: gives the codec.
        env: gives the learner's reward.
        agent: settings of returns and pictures.
        device: where batches are made.
        steered: what is trained in, where the decisions are chunks of a steered policy; None: the codec's.

    Raises:
        UserError: they are damaged, lack something, or do not fit into the memory.
    """

    def __init__(
        self,
        config: OfflineConfig,
        demonstrations: Demonstrations,
        task: Task,
        env: TaskTrainingEnv,
        agent: AgentConfig,
        device: torch.device | str,
        steered: SteeringEnv | None = None,
    ) -> None:
        aliasing = steered.aliasing if steered else None
        self.config = config
        self.device = device
        codec = task.codec(1)
        if not aliasing and not all(
            hasattr(each, "encode_actions") for each in (codec, getattr(codec, "inner", codec))
        ):
            raise UserError(
                f"offline.dataset must be empty: {task.name} cannot turn recorded actions into those of a "
                "network, because its codec has no encode_actions (envs/interfaces.py)"
            )
        self.fingerprint = demonstrations.fingerprint()
        self.episodes = len(demonstrations.lengths)
        self.conversion = Conversion(codec, env, aliasing)
        self.replay = self._make_replay(demonstrations, steered or env, agent)
        smoothing = RewardSmoothing(agent.reward_smoothing, num_envs=1)
        try:
            for decision in self.conversion(demonstrations.episodes()):
                self.replay.add(*decision._replace(step=smoothing(decision.step)))
        except KeyError as error:
            raise UserError(
                f"{config.dataset}: it has no {error.args[0]}, which {task.name} needs with these settings; "
                "collect_dataset.py records it"
            ) from None
        if not self.replay.size:
            raise UserError(f"{config.dataset}: its episodes are too short, there is no transition in them")

    def _make_replay(
        self, demonstrations: Demonstrations, env: TaskTrainingEnv | SteeringEnv, agent: AgentConfig
    ) -> Replay:
        """With room for all of them, and not more."""
        aliasing, lengths = self.conversion.aliasing, demonstrations.lengths
        decisions = int(lengths.sum() if aliasing else (-(-lengths // self.conversion.steps)).sum())
        pictures = decisions + len(lengths) + 1  # also of each end, and of the start that would follow
        room = max(pictures, agent.n_step + env.stack + 1)
        action_size = aliasing.executed_size if aliasing else None
        try:
            return make_replay(env, room, agent, self.device, num_envs=1, action_size=action_size)
        except UserError as error:
            raise UserError(f"{demonstrations.root}, in place of buffer_capacity: {error}") from None

    def __str__(self) -> str:
        made, spoilt = self.conversion, []
        if made.clipped:
            spoilt.append(f"{made.clipped:,} of their actions clipped")
        if made.averaged:
            spoilt.append(f"{made.averaged:,} averaged over env.action_repeat")
        if made.too_short:
            spoilt.append(f"{made.too_short:,} of the episodes too short")
        counts = f"{self.episodes:,} episodes, {made.decisions:,} decisions of {self.config.dataset}"
        return ", ".join([counts, *spoilt])

    def sample(self, batch_size: int, generator: torch.Generator) -> Drawn:
        """A batch of demonstrations."""
        return self.replay.sample(batch_size, generator), self._imitation(batch_size, batch_size)

    def mixed(self, replay: Replay, batch_size: int, env_steps: int, generator: torch.Generator) -> Drawn:
        """A batch of the training's own replay and, up to `until`, of demonstrations, which are its last."""
        over = 0 < self.config.until <= env_steps
        num_demonstrated = 0 if over else round(self.config.share * batch_size)
        parts = [(replay, batch_size - num_demonstrated), (self.replay, num_demonstrated)]
        batch = joined([source.sample(count, generator) for source, count in parts if count])
        return batch, self._imitation(batch_size, num_demonstrated)

    def _imitation(self, batch_size: int, num_demonstrated: int) -> torch.Tensor | None:
        """How much the actor imitates each action of a batch, of which the last ones are demonstrated."""
        if not self.config.imitation:
            return None
        weights = torch.zeros(batch_size, device=self.device)
        weights[batch_size - num_demonstrated :] = self.config.imitation
        return weights


def joined(batches: Sequence[Batch]) -> Batch:
    """Batches below each other; of several views, all first ones before all second ones."""
    if len(batches) == 1:
        return batches[0]
    sizes = [len(batch.rewards) for batch in batches]

    def join(parts: Sequence[Any]) -> Any:
        if isinstance(parts[0], Pixels):
            return Pixels(*(join(several) for several in zip(*parts, strict=True)))
        views = [part.split(size) for part, size in zip(parts, sizes, strict=True)]
        return torch.cat([part for of_one in zip(*views, strict=True) for part in of_one])

    return Batch(*(join(parts) for parts in zip(*batches, strict=True)))
