"""PushT from pictures alone: a frozen network estimates the poses, of which the policy gets PushT's features.

No convolution is trained with the policy, whose updates cost what they cost on PushT. Playing reads nothing
of a raw observation but its "pixels"; rewards and starts of the training are PushT's and know the state.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from gym_pusht.envs.pusht import PushTEnv as StockPushTEnv

from envs.interfaces import Motion, RawObservation
from envs.pusht import pose
from envs.pusht.codec import PushTCodec
from envs.pusht.task import PushT
from envs.pusht.vector import PushTVectorEnv

AGENT_GAIN = 0.3  # weight of the picture in the agent's place; the rest is where it must have come to


class PoseCodec:
    """An `envs.interfaces.Codec` around that of the state.

    Agents obey their controller and nothing else. So it remembers where each slot's agent must have come to
    since the last decision, and how fast it is, (n, 2, 2) pixels and pixels per second, and the picture
    corrects the place. At an episode's start the agent rests where the picture shows it.

    Args:
        num_envs: slots, n.
        inner: the codec of the state.
        estimator: of poses in pictures.
        action_repeat: environment steps per decision.
    """

    pixel_shape: tuple[int, int, int] | None = None
    stack = 0

    def __init__(
        self, num_envs: int, inner: PushTCodec, estimator: pose.PoseEstimator, action_repeat: int
    ) -> None:
        self.inner = inner
        self.estimator = estimator
        self.observation_size, self.action_size = inner.observation_size, inner.action_size
        self.env_steps = math.inf
        self.agents = np.zeros((num_envs, 2, 2))  # position, velocity
        self.action_repeat = action_repeat
        self._motion = agent_motion(1)
        self._pictures = np.zeros((num_envs, pose.SIDE, pose.SIDE, 3), np.uint8)
        self._seen = estimator(self._pictures)  # in these

    def reset(self, slots: np.ndarray, raw: RawObservation) -> None:
        self.agents[slots, 0] = self._look(raw)["agent_pos"][slots]
        self.agents[slots, 1] = 0.0
        self.inner.reset(slots, self.estimate(raw))

    def encode(self, raw: RawObservation) -> np.ndarray:
        return self.inner.encode(self.estimate(raw))

    def decode(self, actions: np.ndarray, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        self.inner.env_steps = self.env_steps
        targets = self.inner.decode(actions, self.estimate(raw), slots)
        self._move(np.broadcast_to(targets, (self.action_repeat, *targets.shape)), raw, slots)
        return targets

    def advance(self, chunk: np.ndarray, raw: RawObservation, slots: np.ndarray) -> None:
        self.inner.advance(chunk, raw, slots)
        self._move(chunk, raw, slots)

    def encode_actions(self, actions: np.ndarray, raw: RawObservation) -> np.ndarray:
        return self.inner.encode_actions(actions, self.estimate(raw))

    def _move(self, chunk: np.ndarray, raw: RawObservation, slots: np.ndarray) -> None:
        """Where the targets (T, n, 2) of T environment steps take the agents."""
        estimated = self.estimate(raw)
        agents = np.stack([estimated["agent_pos"], estimated["agent_vel"]], axis=1)
        for targets in chunk:
            at_rest = np.stack([targets, np.zeros_like(targets)], axis=1)
            agents = at_rest + self._motion @ (agents - at_rest)
        self.agents = np.where(slots[:, None, None], agents, self.agents)

    def estimate(self, raw: RawObservation) -> RawObservation:
        """The raw observations as far as pictures and past decisions tell them."""
        seen = self._look(raw)
        agent_pos = self.agents[:, 0] + AGENT_GAIN * (seen["agent_pos"] - self.agents[:, 0])
        return seen | {"agent_pos": agent_pos, "agent_vel": self.agents[:, 1]}

    def _look(self, raw: RawObservation) -> RawObservation:
        """What is in the pictures; those that are as before are not looked at again."""
        pictures = raw["pixels"]
        new = np.flatnonzero((pictures != self._pictures).any(axis=(1, 2, 3)))
        if len(new):
            for name, values in self.estimator(pictures[new]).items():
                self._seen[name][new] = values
            self._pictures[new] = pictures[new]
        return self._seen

    def state_dict(self) -> dict[str, np.ndarray]:
        return self.inner.state_dict() | {"agents": self.agents.copy()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Restore `state_dict`.

        Raises:
            ValueError: the agents are not those of these slots.
        """
        agents = state["agents"]
        if agents.shape != self.agents.shape or not np.isfinite(agents).all():
            raise ValueError(f"env.agents are not finite, or of the shape {agents.shape}")
        self.agents = agents.astype(np.float64)
        self.inner.load_state_dict(state)


def agent_motion(steps: int) -> np.ndarray:
    """What `steps` environment steps do to an agent's place from its target, and its velocity: (2, 2)."""
    env = StockPushTEnv()
    rate = np.array([[1.0, 0.0], [-env.k_p * env.dt, 1.0 - env.k_v * env.dt]])  # the controller's
    shift = np.array([[1.0, env.dt], [0.0, 1.0]])
    return np.linalg.matrix_power(shift @ rate, steps * int(1 / (env.dt * env.control_hz)))


@dataclass(frozen=True)
class PushTPixels(PushT):
    """PushT from pictures, as the agent meets it in training."""

    name: ClassVar[str] = "PushT from pictures"
    must_move: ClassVar[Motion | None] = Motion("pixels", least=1.0)

    def validate(self) -> None:
        super().validate()
        if "keypoints" in self.features:
            raise ValueError("features must not have keypoints, which are not estimated: block_pos is")

    def vector_env(self, num_envs: int, image_size: int = 0, stock: bool = False) -> PushTVectorEnv:
        """With pictures of the one size that the network reads, whatever is asked for."""
        return super().vector_env(num_envs, pose.SIDE, stock)

    def codec(self, num_envs: int) -> PoseCodec:  # pyright: ignore[reportIncompatibleMethodOverride]
        inner = super().codec(num_envs)
        return PoseCodec(num_envs, inner, pose.load(), self.action_repeat)


TASK = PushTPixels
