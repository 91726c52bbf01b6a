"""What a recorded frame and a recorded episode hold, and under which names LeRobot finds it.

The names, types and meanings are those of `lerobot/pusht`, or of `lerobot/pusht_keypoints`. Frame t shows the
board before action t; `next.*` is what that action led to; the state after the last action is not stored.
`sim.*` comes on top: LeRobot makes inputs and targets of a policy from names that begin with `observation` or
`action`, so nothing trains on it by mistake.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from lerobot.datasets.compute_stats import get_feature_stats

from envs.pusht.observations import FPS, SUCCESS_COVERAGE

HUMAN, IMPORT = "human", "import"  # policies: a person at the mouse, and episodes from elsewhere
TASK = "Push the T-shaped blue block onto the T-shaped green target surface."
IMAGE = "observation.image"
ROBOT = "unknown"  # what lerobot/pusht says
_XY = {"motors": ["motor_0", "motor_1"]}
_SIM_STATE = ["agent_x", "agent_y", "block_x", "block_y", "block_angle", "agent_vx", "agent_vy"]


@dataclass(frozen=True)
class Settings:
    """What the episodes of a dataset are, whoever plays them."""

    seed: int = 1_000_000  # of the first start; lerobot-eval plays from 1,000, evaluate.py from 100,000
    observations: Literal["pixels", "keypoints"] = "pixels"  # besides the agent's position
    resolution: int = 96  # side of the pictures in pixels
    video: bool = False  # store them as LeRobot's default video, small and lossy, instead of PNG
    sampled: bool = False  # draw actions from the policy's distribution instead of taking its mode
    noise: float = 0.0  # standard deviation in pixels, added to actions as played; the clean one is the label
    hold: int = 0  # steps for which the T then has to stay on its place, for a clone to learn to stop
    hindsight: bool = False  # with --import-human: every segment, moved so that its T ends on the goal
    all: bool = False  # keep failures too, marked by next.success
    min_coverage: float = 0.0  # of the goal, at best, below which an episode is not kept

    def validate(self) -> None:
        if self.seed > 2**62:
            raise ValueError(f"seed must be at most 2^62, for episodes count on from it, got {self.seed}")
        for name in ("seed", "noise", "hold"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")
        if not 16 <= self.resolution <= 1024:
            raise ValueError(f"resolution must be from 16 to 1024 pixels, got {self.resolution}")
        if self.video and self.resolution % 2:
            raise ValueError(f"resolution must be even for a video, got {self.resolution}")
        if self.video and self.observations == "keypoints":
            raise ValueError("video must be false with --observations keypoints, which has no pictures")
        if not 0.0 <= self.min_coverage < 1.0:
            raise ValueError(f"min_coverage must be from 0 to below 1, got {self.min_coverage}")


@dataclass(frozen=True)
class Recipe(Settings):
    """Everything that an episode depends on besides its own seed: equal recipes make equal datasets."""

    policy: str = ""  # as it was named; or HUMAN, or IMPORT
    fingerprint: str = ""  # of the policy's files

    @property
    def simulated(self) -> bool:
        """Whether its episodes were played in this simulator, where they come out equal again."""
        return self.policy != IMPORT or self.hindsight

    def accepts(self, success: bool, max_coverage: float) -> bool:
        """Whether an episode belongs into the dataset."""
        return (success or self.all) and max_coverage >= self.min_coverage


@dataclass
class Recorded:
    """An episode of T frames as it will be stored."""

    seed: int  # of its start; -1 if it began otherwise
    success: bool  # it ended with coverage above 0.95, for as long as the recipe's `hold` asks
    max_coverage: float
    columns: dict[str, np.ndarray]  # (T, ...) by feature, all but pictures and indices
    pictures: list[bytes]  # PNG each; empty with keypoints
    stats: dict[str, dict[str, np.ndarray]]  # LeRobot's, by feature, all but the indices
    video: bytes = b""  # the pictures as MP4, when asked for

    @property
    def accepted(self) -> bool:
        """Whether it belongs into the dataset; if not, it has no content."""
        return bool(self.columns)

    def __len__(self) -> int:
        return len(self.columns["action"])


def features(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """LeRobot's description of the stored features, without those that it adds itself."""
    side = recipe.resolution
    if recipe.observations == "pixels":
        kind, names = ("video" if recipe.video else "image"), ["height", "width", "channel"]
        seen = {IMAGE: {"dtype": kind, "shape": (side, side, 3), "names": names}}
    else:
        seen = {"observation.environment_state": _feature("float32", 16, ["keypoints"])}
    played = {"sim.action": _feature("float32", 2, _XY)} if recipe.noise else {}
    return {
        **seen,
        "observation.state": _feature("float32", 2, _XY),
        "action": _feature("float32", 2, _XY),
        "next.reward": _feature("float32", 1),
        "next.done": _feature("bool", 1),
        "next.success": _feature("bool", 1),
        "sim.state": _feature("float64", len(_SIM_STATE), _SIM_STATE),
        **played,
    }


def columns(
    recipe: Recipe,
    states: np.ndarray,
    keypoints: np.ndarray,
    actions: np.ndarray,
    played: np.ndarray,
    coverage: np.ndarray,
) -> dict[str, np.ndarray]:
    """An episode's values by feature, pictures and indices aside.

    Args:
        recipe: says which are wanted.
        states: (T, 7) as `PushTEnv.get_state` tells them, before each action.
        keypoints: (T, 8, 2) pixels, of the same moments.
        actions: (T, 2) pixels, what a policy should learn.
        played: (T, 2) pixels, what the simulator got.
        coverage: (T,) after each action.
    """
    steps = len(actions)
    values = {
        "observation.environment_state": keypoints.reshape(steps, 16),
        "observation.state": states[:, :2],
        "action": actions,
        "next.reward": np.minimum(coverage / SUCCESS_COVERAGE, 1.0),
        "next.done": np.arange(steps) == steps - 1,
        "next.success": coverage > SUCCESS_COVERAGE,
        "sim.state": states,
        "sim.action": played,
    }
    wanted = features(recipe)
    stored = {name: values[name].astype(wanted[name]["dtype"]) for name in wanted if name != IMAGE}
    # Seconds in float64, of which LeRobot makes its statistics; stored they are float32.
    return stored | {"timestamp": np.arange(steps) / FPS, "frame_index": np.arange(steps)}


def column_stats(values: np.ndarray) -> dict[str, np.ndarray]:
    """LeRobot's statistics of an episode's values (T,) or (T, k)."""
    return get_feature_stats(values, axis=0, keepdims=values.ndim == 1)


def _feature(dtype: str, size: int, names: Any = None) -> dict[str, Any]:
    return {"dtype": dtype, "shape": (size,), "names": names}
