"""Where agent and block are, from PushT's picture alone.

Colours say roughly where each of them is: two small windows of the picture are cut out around their middles.
A strided network on the block's window then places three points of the T, and a smaller one on the agent's
window its centre, to a fraction of a pixel. A pixel of the picture is 5.3 pixels of the board; most of the
picture is empty, and a network that sees all of it takes longer and has to learn the same at every place.
"""

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numba import njit
from torch import nn

from common.bounds import Width
from common.checkpoint import save_json, save_tensors
from common.config import from_dict
from common.errors import UserError
from common.paths import REPOSITORY
from common.untrusted import load_json, load_tensors
from envs.interfaces import RawObservation
from envs.pusht.observations import BOARD_PX

WEIGHTS = REPOSITORY / "assets" / "pusht_pose"
SIDE = 96  # of the picture, pixels
SCALE = BOARD_PX / SIDE  # pixels of the board per pixel of the picture
BLOCK_SIDE, AGENT_SIDE = 40, 12  # of the windows, pixels of the picture; the T is 28 long
POINTS = np.array([[-60.0, 15.0], [60.0, 15.0], [0.0, 120.0]])  # ends of bar and stem, the T's own frame, px
POINT_SCALE = 8.0  # pixels of the picture per unit of the network's output
BATCH = 64  # pictures that the network sees at a time


class Windows(NamedTuple):
    """What is cut out of n pictures."""

    block: np.ndarray  # (n, 40, 40, 3) uint8 RGB, white where the picture ends
    agent: np.ndarray  # (n, 12, 12, 3)
    centers: np.ndarray  # (n, 2, 2) of both on the board, x and y in pixels


def cut_windows(pictures: np.ndarray) -> Windows:
    """The windows of pictures (n, 96, 96, 3) uint8 RGB."""
    if pictures.dtype != np.uint8 or pictures.shape[1:] != (SIDE, SIDE, 3):
        raise ValueError(f"pictures must be uint8 (n, {SIDE}, {SIDE}, 3), got {pictures.shape}")
    n = len(pictures)
    windows = Windows(
        np.empty((n, BLOCK_SIDE, BLOCK_SIDE, 3), np.uint8),
        np.empty((n, AGENT_SIDE, AGENT_SIDE, 3), np.uint8),
        np.empty((n, 2, 2)),
    )
    _cut(np.ascontiguousarray(pictures), *windows)
    return windows


@njit(cache=True, nogil=True)
def _cut(pictures, blocks, agents, centers):
    """Fill the windows, see `cut_windows`. Block is what is greyish and darker than goal and walls."""
    side = pictures.shape[1]
    for n in range(len(pictures)):
        picture = pictures[n]
        sums = np.zeros((2, 3), np.int64)  # weight, weighted row, weighted column
        for i in range(side):
            for j in range(side):
                red, green, blue = np.int64(picture[i, j, 0]), picture[i, j, 1], np.int64(picture[i, j, 2])
                if green >= 200:  # most of the board
                    continue
                blueness = blue - red  # 178 in the agent, 41 in the block
                which, weight = (1, blueness) if blueness > 70 else (0, np.int64(1))
                if which == 0 and green >= 180:  # the agent's rim
                    continue
                sums[which, 0] += weight
                sums[which, 1] += weight * i
                sums[which, 2] += weight * j
        for which in range(2):
            window = agents[n] if which else blocks[n]
            size = len(window)
            weight = max(sums[which, 0], 1)
            top = round(sums[which, 1] / weight - 0.5 * (size - 1))
            left = round(sums[which, 2] / weight - 0.5 * (size - 1))
            centers[n, which, 0] = (left + 0.5 * size) * (BOARD_PX / side) - 0.5
            centers[n, which, 1] = (top + 0.5 * size) * (BOARD_PX / side) - 0.5
            for i in range(size):
                for j in range(size):
                    y, x = top + i, left + j
                    for c in range(3):
                        inside = 0 <= y < side and 0 <= x < side
                        window[i, j, c] = picture[y, x, c] if inside else 255


@dataclass(frozen=True)
class PoseConfig:
    """Sizes of the network: `config.json` beside its weights."""

    channels: tuple[Width, ...] = (24, 48, 64)  # of the convolutions, each of stride 2
    hidden: Width = 128  # of the layer behind them
    agent_hidden: Width = 64  # of the network on the agent's window


class PoseNetwork(nn.Module):
    """Windows of pictures -> points relative to the windows' centres."""

    def __init__(self, config: PoseConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        size, before = BLOCK_SIDE, 3
        for depth, channels in enumerate(config.channels):
            kernel = 3 if depth else 5
            layers += [nn.Conv2d(before, channels, kernel, 2, kernel // 2), nn.ReLU()]
            size, before = (size + 1) // 2, channels
        layers += [nn.Flatten(), nn.Linear(before * size**2, config.hidden), nn.ReLU()]
        self.block = nn.Sequential(*layers, nn.Linear(config.hidden, POINTS.size))
        self.agent = nn.Sequential(
            nn.Flatten(),
            nn.Linear(3 * AGENT_SIDE**2, config.agent_hidden),
            nn.ReLU(),
            nn.Linear(config.agent_hidden, 2),
        )
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, block: torch.Tensor, agent: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Windows (B, 40, 40, 3) and (B, 12, 12, 3) uint8 -> (B, 3, 2) and (B, 2) board pixels."""
        points = self.block(_inputs(block)).unflatten(1, POINTS.shape)
        return POINT_SCALE * SCALE * points, SCALE * self.agent(_inputs(agent))


def _inputs(windows: torch.Tensor) -> torch.Tensor:
    """(B, side, side, 3) uint8 as (B, 3, side, side) float32 in [0, 1]; white, most of it, is 0."""
    return 1.0 - windows.permute(0, 3, 1, 2).float() / 255.0


class PoseEstimator:
    """Pictures -> poses, the same for a picture whatever it is estimated together with."""

    def __init__(self, network: PoseNetwork) -> None:
        self.network = network.eval().requires_grad_(False)

    def __call__(self, pictures: np.ndarray) -> RawObservation:
        """Estimate from pictures (n, 96, 96, 3) uint8 RGB.

        Returns:
            agent_pos (n, 2) pixels; block_pose (n, 3), pixels and radians in [-pi, pi].
        """
        return self.of_windows(cut_windows(pictures))

    def of_windows(self, windows: Windows) -> RawObservation:
        """The same of what was cut out of the pictures."""
        n = len(windows.centers)
        agent_pos, block_pose = np.empty((n, 2)), np.empty((n, 3))
        for begin in range(0, n, BATCH):
            rows = slice(begin, begin + BATCH)
            agent_pos[rows], block_pose[rows] = self._estimate(*(part[rows] for part in windows))
        return {"agent_pos": agent_pos, "block_pose": block_pose}

    @torch.inference_mode()
    def _estimate(
        self, block: np.ndarray, agent: np.ndarray, centers: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of at most `BATCH` pictures; the network always sees so many, as its rounding depends on that."""
        n = len(centers)
        padding = [(0, BATCH - n), (0, 0), (0, 0), (0, 0)]
        seen = (torch.from_numpy(np.pad(part, padding)) for part in (block, agent))
        points, agent_pos = (part[:n].double().numpy() for part in self.network(*seen))
        return centers[:, 1] + agent_pos, pose_of(centers[:, :1] + points)


def pose_of(points: np.ndarray) -> np.ndarray:
    """The block's pose (n, 3) whose `POINTS` lie nearest to these (n, 3, 2), by least squares."""
    middle, own_middle = points.mean(1), POINTS.mean(0)
    arms, own_arms = points - middle[:, None], POINTS - own_middle
    cross = (own_arms[:, 0] * arms[:, :, 1] - own_arms[:, 1] * arms[:, :, 0]).sum(1)
    angles = np.arctan2(cross, (own_arms * arms).sum((1, 2)))
    return np.column_stack(
        [middle - place(np.zeros((len(points), 2)), angles, own_middle[None])[:, 0], angles]
    )


def place(positions: np.ndarray, angles: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points (k, 2) of blocks at these positions (n, 2) and angles (n,), on the board: (n, k, 2) pixels."""
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    x = cos * points[:, 0] - sin * points[:, 1]
    y = sin * points[:, 0] + cos * points[:, 1]
    return positions[:, None] + np.stack([x, y], axis=2)


def save(folder: Path, network: PoseNetwork, config: PoseConfig, notes: dict) -> None:
    """Write `model.safetensors` and `config.json`, which also says how it was trained."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "model.safetensors", network.state_dict())
    save_json(folder / "config.json", asdict(config) | {"trained": notes})


@cache
def load(folder: Path = WEIGHTS) -> PoseEstimator:
    """Open what `save` wrote.

    Raises:
        UserError: something is missing, or the parts do not fit.
    """
    file, weights = folder / "config.json", folder / "model.safetensors"
    content = load_json(file)
    sizes = {name: value for name, value in content.items() if name != "trained"}
    config, tensors = from_dict(PoseConfig, sizes, f"{file}: "), load_tensors(weights)
    with torch.device("meta"):  # nothing as large as a damaged file says is allocated
        expected = {name: tensor.shape for name, tensor in PoseNetwork(config).state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        raise UserError(f"{weights}: not the weights of the network that {file.name} describes")
    if not all(tensor.isfinite().all() for tensor in tensors.values()):
        raise UserError(f"{weights}: some weights are not finite")
    network = PoseNetwork(config)
    network.load_state_dict(tensors)
    return PoseEstimator(network)
