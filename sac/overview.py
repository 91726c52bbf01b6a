"""What a training prints at its start: what is trained."""

from typing import Any

import torch

from common.config import to_dict
from envs.interfaces import Task, TrainingEnv
from sac.frame_replay import FrameReplay
from sac.trainer import Trainer


def start_up_table(trainer: Trainer, task: Task, trial: str = "") -> dict[str, str]:
    """What is about to be trained.

    Args:
        trainer: ready.
        task: with its settings.
        trial: what the policy that is steered solves with an untrained learner, in words.
    """
    agent = trainer.agent
    actor_size = sum(p.numel() for p in agent.policy.parameters())
    critics = [agent.critics, *([agent.noise_critics] if agent.noise_critics else [])]
    critics_size = sum(p.numel() for each in critics for p in each.parameters())
    unused = task.action_settings if trainer.frozen else ()
    shown = [name for name in task.highlights if name not in unused]
    settings = {name: value for name, value in to_dict(task).items() if name in shown}
    table = {
        "environments": f"{task.num_envs} x {task.name}",
        **{name.replace("_", " "): _plain(value) for name, value in settings.items()},
        "observation": _observation(trainer.env, trainer.policy_config["observation_size"]),
        "networks": f"actor {actor_size:,} parameters, {len(critics) * agent.config.num_critics} critics "
        f"{critics_size:,}",
        "device": f"{agent.device}, {torch.get_num_threads()} CPU threads",
        **({"steers": "; ".join(filter(None, [trainer.frozen.source, trial]))} if trainer.frozen else {}),
        **({"demonstrations": str(trainer.demonstrations)} if trainer.demonstrations else {}),
        "length": f"{trainer.total_env_steps:,} env steps, {agent.total_updates:,} updates",
    }
    if isinstance(trainer.replay, FrameReplay):
        table["replay"] = trainer.replay.size_in_words()
    return table


def _observation(env: TrainingEnv, size: int) -> str:
    """What the actor sees, of which `size` are numbers."""
    parts = [f"{size} numbers"] if size or not env.pixel_shape else []
    if env.pixel_shape:
        height, width, channels = env.pixel_shape
        parts.insert(0, f"{env.stack} pictures of {height} x {width} x {channels // env.stack}")
    return ", ".join(parts)


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
