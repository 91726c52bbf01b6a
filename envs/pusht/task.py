"""PushT as a task: its settings, its environments, its numbers."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np

from common.bounds import Above, Between, ParallelEnvs, Positive, Several, Share
from envs.interfaces import Episode, Metric, Motion, RawObservation
from envs.pusht.actions import ActionDecoder
from envs.pusht.codec import PushTCodec
from envs.pusht.observations import FPS, GOAL_POSE, SUCCESS_COVERAGE, check_features
from envs.pusht.plots import plot_coverage, plot_starts
from envs.pusht.recording import PushTRecording
from envs.pusht.rewards import REWARDS, Transition
from envs.pusht.scripted import ScriptedPolicy
from envs.pusht.symmetry import mirror, mirror_pictures, mirror_points
from envs.pusht.vector import PushTVectorEnv, StockPushTVectorEnv
from envs.recording import Recording
from envs.summary import RETURN, STEPS_TO_SUCCESS, SUCCESS_RATE, summarize
from envs.training import TaskTrainingEnv

if TYPE_CHECKING:
    import torch

PixelDistance = Annotated[float, Above(0, 1e4)]


@dataclass(frozen=True)
class PushT:
    """PushT as the agent meets it in training."""

    name: ClassVar[str] = "PushT"
    sentence: ClassVar[str] = "Push the T-shaped blue block onto the T-shaped green target surface."
    fps: ClassVar[int] = FPS
    progress_name: ClassVar[str] = "coverage"
    progress_goal: ClassVar[float] = SUCCESS_COVERAGE
    must_move: ClassVar[Motion | None] = Motion("block_pose", least=1e-3)
    highlights: ClassVar[tuple[str, ...]] = ("features", "action_mode", "reward")
    action_settings: ClassVar[tuple[str, ...]] = (
        *("action_mode", "action_bound", "action_frame", "speed_limit", "speed_ramp"),
    )
    packages: ClassVar[tuple[str, ...]] = ("gym-pusht", "gymnasium", "pymunk")
    recording: ClassVar[Recording] = PushTRecording()
    lerobot_names: ClassVar[dict[str, str]] = {
        "observation.state": "agent_pos",
        "observation.environment_state": "keypoints",
        "observation.image": "pixels",
    }
    metrics: ClassVar[tuple[Metric, ...]] = (
        SUCCESS_RATE,
        STEPS_TO_SUCCESS,
        Metric("mean_max_coverage", "max coverage", ".3f"),
        RETURN._replace(brief=False),
        Metric("action_step_mean", "action step mean", ".1f", "px"),
        Metric("action_step_p99", "action step p99", ".1f", "px", brief=False),
    )

    num_envs: ParallelEnvs = 128  # PushTs stepped together
    features: tuple[str, ...] = (  # what the policy sees, see envs/pusht/observations.py
        "agent_pos",
        "block_pos",
        "block_rotation",
        "agent_in_block_frame",
        "agent_fourier_in_block_frame",
        "agent_vel_in_block_frame",
        "goal_in_block_frame",
        "goal_error",
    )
    action_mode: Literal["absolute", "relative", "delta"] = "relative"  # see envs/pusht/actions.py
    action_bound: PixelDistance = 100.0  # px in x and in y, away from the agent or from the last target
    action_frame: Literal["board", "block"] = "block"  # whose x and y an action means
    action_repeat: Several = 1  # environment steps per decision, the target held
    speed_limit: Annotated[tuple[float, float] | None, Above(0, 1e4)] = None  # px a step, at first and last
    speed_ramp: tuple[int, int] = (0, 1)  # env steps between which the one becomes the other
    reward: Literal["stock", "linear", "log_barrier", "progress"] = "log_barrier"  # see envs/pusht/rewards.py
    reward_scale: Positive = 0.1  # multiplies reward and bonus
    success_bonus: float = 5.0  # added on the step that succeeds
    mirror: bool = True  # half of each batch is replaced by its mirror image, see envs/pusht/symmetry.py
    curriculum: Share = 0.5  # share of episodes that start near the goal
    curriculum_angle: float = 0.8  # rad, largest sigma of its angle to the goal; a start has 5 to 100 % of it
    curriculum_distance: Annotated[float, Between(0, 1e4)] = 70.0  # px, largest sigma of its position

    def validate(self) -> None:
        check_features(self.features)
        if self.action_mode == "absolute" and self.action_frame == "block":
            raise ValueError("action_frame must be board with absolute actions, got block")
        if self.mirror:
            mirror(self.features, self.action_frame)
        if not 0 <= self.speed_ramp[0] < self.speed_ramp[1]:
            raise ValueError(f"speed_ramp must be two rising counts, got {self.speed_ramp}")

    def vector_env(self, num_envs: int, image_size: int = 0, stock: bool = False) -> PushTVectorEnv:
        return (StockPushTVectorEnv if stock else PushTVectorEnv)(num_envs, image_size)

    def codec(self, num_envs: int) -> PushTCodec:
        return PushTCodec(num_envs, self.features, self.decoder)

    def decoder(self, env_steps: float = math.inf) -> ActionDecoder:
        """What actions mean after so many environment steps of training; without a number, in the end."""
        limit = None
        if self.speed_limit:
            limit = float(np.interp(env_steps, self.speed_ramp, self.speed_limit))
        return ActionDecoder(self.action_mode, self.action_bound, self.action_frame, limit)

    def training_env(self, seed: int, gamma: float, image_size: int = 0) -> TaskTrainingEnv:
        env = self.vector_env(self.num_envs, image_size)

        def reward(
            before: RawObservation, after: RawObservation, stock: np.ndarray, succeeded: np.ndarray
        ) -> np.ndarray:
            shaped = REWARDS[self.reward](Transition(before, after, stock, env.goal_keypoints))
            return shaped + self.success_bonus * succeeded

        return TaskTrainingEnv(
            self,
            env,
            seed,
            gamma,
            reward=reward,
            reward_scale=self.reward_scale,
            start=self._start,
            symmetry=mirror(self.features, self.action_frame) if self.mirror else None,
        )

    def scripted_policy(self) -> ScriptedPolicy:
        return ScriptedPolicy()

    def mirror_feature(self, name: str, values: np.ndarray, drawn: bool) -> np.ndarray:
        """Recorded values in the mirror, for imitation learners.

        Args:
            name: `action`, `agent_pos` or `keypoints`.
            values: (n, k) pixels.
            drawn: in the mirror of pictures, see `mirror_points`.

        Raises:
            ValueError: it is another, which may be an angle or a velocity.
        """
        if name not in ("action", "agent_pos", "keypoints"):
            raise ValueError(f"name must be action, agent_pos or keypoints, got {name}")
        return mirror_points("keypoints" if name == "keypoints" else "agent_pos", values, drawn)

    def mirror_pictures(self, pictures: "torch.Tensor") -> "torch.Tensor":
        """Pictures (n, 3, height, width) in the mirror."""
        return mirror_pictures(pictures)

    def summarize(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """What every task has, and:

        mean_max_coverage: mean over episodes of the largest coverage.
        action_step_mean, action_step_p99: pixels from one target to the next, over all steps of all episodes;
            None if no episode has two.
        """
        moves = [np.linalg.norm(np.diff(episode.actions, axis=0), axis=1) for episode in episodes]
        steps = np.concatenate(moves)
        return summarize(episodes) | {
            "mean_max_coverage": float(np.mean([episode.progress[1:].max() for episode in episodes])),
            "action_step_mean": float(steps.mean()) if len(steps) else None,
            "action_step_p99": float(np.percentile(steps, 99)) if len(steps) else None,
        }

    def rank(self, summary: dict[str, Any]) -> tuple[float, ...]:
        """Higher success; then fewer steps to it; then more coverage."""
        steps = summary["mean_steps_to_success"]
        return (
            summary["success_rate"],
            -math.inf if steps is None else -steps,
            summary["mean_max_coverage"],
        )

    def plot(self, folder: Path, stem: str, episodes: Sequence[Episode], title: str) -> list[Path]:
        """Coverage over time, and a map of the starts."""
        coverage, starts = folder / f"{stem}_coverage.png", folder / f"{stem}_starts.png"
        plot_coverage(coverage, episodes, title)
        plot_starts(starts, episodes, self.vector_env(1).goal_keypoints, title)
        return [coverage, starts]

    @classmethod
    def upgrade(cls, config: dict[str, Any]) -> dict[str, Any]:
        """A checkpoint's `config.json` from before there were several tasks, in today's form."""
        names = ("features", "action_mode", "action_bound", "action_frame", "action_repeat")
        limit = config["speed_limit"]  # one number
        env = {name: config[name] for name in names} | {"speed_limit": limit and [limit, limit]}
        others = {name: value for name, value in config.items() if name not in (*names, "speed_limit")}
        return others | {"task": "pusht", "env": asdict(cls()) | env | {"mirror": False}}

    def _start(self, rng: np.random.Generator) -> np.ndarray:
        """A start state (5,); NaN for the seed's own. Near the goal, how near is random too."""
        if not rng.random() < self.curriculum:
            return np.full(5, np.nan)
        scale = 0.05 + 0.95 * rng.random()
        right, down, turn = rng.standard_normal(3).tolist()
        x, y, angle = GOAL_POSE.tolist()
        x += self.curriculum_distance * scale * right
        y += self.curriculum_distance * scale * down
        angle += self.curriculum_angle * scale * turn
        while True:
            agent_x, agent_y = 50.0 + 400.0 * rng.random(), 50.0 + 400.0 * rng.random()
            if math.hypot(agent_x - x, agent_y - y) > 140.0:  # the far end of the stem, 120 px, and the agent
                return np.array([agent_x, agent_y, x, y, angle])


TASK = PushT
