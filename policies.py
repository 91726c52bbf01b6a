"""Everything that plays: policies opened from folders, and those that need none.

This is the one file that knows every kind of policy folder; all others know `load_policy` and the methods of
`envs.rollout.Policy`. A policy also tells `n_action_steps`, the environment steps from one look at the board
to the next.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from common.checkpoint import load_json, load_tensors
from common.config import from_dict
from common.errors import UserError
from envs.pusht.actions import ActionDecoder
from envs.pusht.observations import (
    GOAL_POSE,
    RawObservation,
    centre_of_gravity,
    check_features,
    feature_size,
    features,
    wrap_angle,
)
from envs.rollout import Policy
from sac.actor import Actor

LOGS = Path("logs")  # where runs are, from where the scripts are started
ASSETS = Path(__file__).parent / "assets"
EXPERT = ASSETS / "sac_expert"
WITHOUT_FOLDER = ("random", "scripted")


def load_policy(
    path: str | Path,
    device: torch.device | str = "cpu",
    deterministic: bool = True,
    seed: int = 0,
    n_action_steps: int | None = None,
    temporal_ensemble_coeff: float | None = None,
) -> Policy:
    """Open any policy.

    Args:
        path: a checkpoint folder, a run folder (its best checkpoint, else its last), "random" or "scripted".
        device: of the networks.
        deterministic: act with the policy's mode; False samples.
        seed: of all randomness in the policy.
        n_action_steps: of an ACT's chunk are played; None: as it was trained to.
        temporal_ensemble_coeff: of an ACT whose chunks are averaged; None: as it was trained to.

    Raises:
        UserError: there is no such policy, its folder is not whole, or it cannot be played like that.
    """
    folder, config = (None, {}) if str(path) in WITHOUT_FOLDER else _read_config(path)
    kind = config.get("algorithm", config.get("type")) if folder else str(path)
    if kind == "act":
        if not deterministic:
            raise UserError(f"{path}: ACT has no distribution to sample actions from")
        from act.player import load_player  # LeRobot takes seconds to import

        return load_player(folder, device, n_action_steps, temporal_ensemble_coeff)
    if n_action_steps is not None or temporal_ensemble_coeff is not None:
        raise UserError(f"{path}: only an ACT has chunks of actions to play more or less of")
    if kind == "random":
        return RandomPolicy(seed)
    if kind == "scripted":
        if not deterministic:
            raise UserError("scripted: this policy has no distribution to sample actions from")
        return ScriptedPolicy()
    if kind == "sac":
        return _load_sac(folder, config, device, deterministic, seed)
    raise UserError(f"{folder / 'config.json'}: algorithm must be sac, or type act, got {kind!r}")


def _read_config(path: str | Path) -> tuple[Path, dict[str, Any]]:
    folder = find_weights(path)
    file = folder / "config.json"
    if not file.exists():
        raise UserError(f"{file}: missing, and no checkpoints, so {path} is no policy")
    config = load_json(file)
    return folder, config if isinstance(config, dict) else {}


def find_checkpoint(path: str | Path) -> Path:
    """The checkpoint folder that `path`, a checkpoint or a run, stands for.

    Raises:
        UserError: there is none.
    """
    path = Path(path)
    if path.is_file():
        raise UserError(f"{path}: this is a file; --policy takes the folder it is in, {path.parent}")
    if not path.exists():
        names = [*WITHOUT_FOLDER, *(str(checkpoints.parent) for checkpoints in LOGS.glob("*/checkpoints"))]
        names += [f"assets/{expert.name}" for expert in ASSETS.glob("sac_expert*")]
        nearest = max(names, key=lambda name: SequenceMatcher(None, str(path), name).ratio())
        raise UserError(f"{path}: no such folder; did you mean {nearest}?")
    if path.name == "pretrained_model":  # half of one of LeRobot's checkpoints
        return path.parent
    checkpoints = path / "checkpoints"
    if not checkpoints.is_dir():
        return path
    for name in ("best", "last"):
        if (checkpoints / name).is_dir():
            return checkpoints / name
    raise UserError(f"{path}: this run has saved no checkpoint yet, {checkpoints} has neither best nor last")


def find_weights(path: str | Path) -> Path:
    """The folder in that checkpoint which holds the policy: in LeRobot's layout one below."""
    folder = find_checkpoint(path)
    return folder / "pretrained_model" if (folder / "pretrained_model").is_dir() else folder


def default_policy() -> Path:
    """The newest run's best checkpoint, or the expert that comes with the repository.

    Raises:
        UserError: there is neither.
    """
    trained = LOGS.glob("*/checkpoints/best/**/config.json")
    if newest := max(trained, key=lambda file: file.stat().st_mtime, default=None):
        return newest.parents[newest.parent.name == "pretrained_model"]
    if EXPERT.is_dir():
        return EXPERT.relative_to(Path.cwd()) if EXPERT.is_relative_to(Path.cwd()) else EXPERT
    raise UserError(f"no policy: no run in {LOGS.absolute()} and no {EXPERT}; train one with train_sac.py")


def fingerprint(path: str | Path) -> str:
    """What tells a policy from any other, whatever its name: the SHA-256 of its settings and weights."""
    if str(path) in WITHOUT_FOLDER:
        return str(path)
    folder, digest = find_weights(path), hashlib.sha256()
    for file in sorted([*folder.glob("*.json"), *folder.glob("*.safetensors")]):
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


class RandomPolicy:
    """Targets drawn uniformly from the board."""

    n_action_steps = 1
    pixels = 0

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.slot_rngs: list[np.random.Generator] = []

    def seed_slots(self, seeds: Sequence[int]) -> None:
        """From now on every slot draws by itself, so that its episode does not depend on its neighbours."""
        self.slot_rngs = [np.random.default_rng(seed) for seed in seeds]

    def reset(self, episodes: np.ndarray) -> None:
        pass

    def act(self, observations: RawObservation) -> np.ndarray:
        if self.slot_rngs:
            return np.stack([rng.uniform(0.0, 512.0, 2) for rng in self.slot_rngs])
        return self.rng.uniform(0.0, 512.0, observations["agent_pos"].shape)


class ScriptedPolicy:
    """Walks round the T to the side away from the goal and pushes, off centre where the T should also turn.

    Crude on purpose: a floor for every learned policy, and coverage above zero for tests.
    """

    n_action_steps = 1
    pixels = 0

    def reset(self, episodes: np.ndarray) -> None:
        pass

    def act(self, observations: RawObservation) -> np.ndarray:
        agent, pose = observations["agent_pos"], observations["block_pose"]
        middle = centre_of_gravity(pose)
        to_goal = centre_of_gravity(GOAL_POSE[None]) - middle
        distance = np.linalg.norm(to_goal, axis=1, keepdims=True)
        forward = to_goal / np.maximum(distance, 1e-6)
        left = np.stack([-forward[:, 1], forward[:, 0]], axis=1)

        turn = wrap_angle(GOAL_POSE[2] - pose[:, 2])
        # Pushed left of its middle, the T turns backwards.
        offset = np.clip(-60.0 * turn, -40.0, 40.0)[:, None]
        ahead = np.sum((agent - middle) * forward, axis=1, keepdims=True)
        aside = np.sum((agent - middle) * left, axis=1, keepdims=True)

        push = agent + np.clip(distance, 10.0, 60.0) * forward + (offset - aside) * left
        line_up = middle - 100.0 * forward + offset * left
        go_round = agent - 60.0 * forward + (110.0 * np.where(aside < 0, -1.0, 1.0) - aside) * left
        lined_up = (ahead < -15.0) & (np.abs(aside - offset) < 20.0)
        targets = np.where(lined_up, push, np.where(ahead < -80.0, line_up, go_round))
        return np.clip(targets, 0.0, 512.0)


class Replay:
    """Plays the targets (T, 2) of one recorded episode; from its seed, they make the same episode again."""

    n_action_steps = 1
    pixels = 0

    def __init__(self, actions: np.ndarray) -> None:
        self.actions = actions
        self.step = 0

    def reset(self, episodes: np.ndarray) -> None:
        self.step = 0

    def act(self, observations: RawObservation) -> np.ndarray:
        self.step += 1
        return self.actions[self.step - 1][None]


class SACPolicy:
    """A trained actor with what surrounds it: features in, targets out.

    Args:
        actor: of the size that `features` makes.
        feature_names: see `envs/pusht/observations.py`.
        decoder: turns the actor's output into targets.
        action_repeat: environment steps for which a target is held.
        deterministic: the mode; False samples.
        seed: of the sampling.
    """

    pixels = 0

    def __init__(
        self,
        actor: Actor,
        feature_names: Sequence[str],
        decoder: ActionDecoder,
        action_repeat: int = 1,
        deterministic: bool = True,
        seed: int = 0,
    ) -> None:
        self.actor = actor
        self.feature_names = feature_names
        self.decoder = decoder
        self.n_action_steps = action_repeat
        self.deterministic = deterministic
        self.device = next(actor.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.slot_generators: list[torch.Generator] = []
        self._targets = np.empty((0, 2))  # the latest of each slot
        self._steps_left = np.empty(0, np.int64)  # for which it is still held; -1 where an episode begins

    def seed_slots(self, seeds: Sequence[int]) -> None:
        """From now on every slot draws by itself, so that its episode does not depend on its neighbours."""
        self.slot_generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def reset(self, episodes: np.ndarray) -> None:
        self._steps_left[episodes[episodes < len(self._steps_left)]] = -1

    def act(self, observations: RawObservation) -> np.ndarray:
        if len(self._steps_left) != len(observations["agent_pos"]):
            self._targets = np.zeros_like(observations["agent_pos"])
            self._steps_left = np.full(len(self._targets), -1)
        begins = self._steps_left < 0
        self._targets[begins] = observations["agent_pos"][begins]
        due = self._steps_left <= 0
        self._targets[due] = self._decide(observations | {"last_target": self._targets})[due]
        self._steps_left[due] = self.n_action_steps
        self._steps_left -= 1
        return self._targets.copy()

    @torch.no_grad()
    def _decide(self, raw: RawObservation) -> np.ndarray:
        observations = torch.from_numpy(features(raw, self.feature_names)).to(self.device)
        if self.deterministic:
            actions = self.actor.mode(observations)
        else:
            actions, _ = self.actor.sample(observations, self._noise(*raw["agent_pos"].shape))
        return self.decoder(actions.cpu().double().numpy(), raw)

    def _noise(self, slots: int, size: int) -> torch.Tensor:
        if self.slot_generators:
            draws = [torch.randn(size, generator=g, device=self.device) for g in self.slot_generators]
            return torch.stack(draws)
        return torch.randn((slots, size), generator=self.generator, device=self.device)


@dataclass(frozen=True)
class SACConfig:
    """`config.json` of a SAC checkpoint, beside `trained`, which says how it came about.

    Every field has to be there; the defaults are no fallbacks.
    """

    algorithm: Literal["sac"] = "sac"  # what kind of policy this is
    observation_size: int = 0  # numbers that the features make
    action_size: int = 2  # numbers that the actor returns
    hidden_sizes: tuple[int, ...] = ()  # of the actor
    features: tuple[str, ...] = ()  # what the actor sees, see envs/pusht/observations.py
    action_mode: Literal["absolute", "relative", "delta"] = "relative"  # see envs/pusht/actions.py
    action_bound: float = 0.0  # pixels
    action_frame: Literal["board", "block"] = "board"  # of the bound's x and y
    speed_limit: float | None = None  # pixels
    action_repeat: int = 1  # environment steps for which a target is held

    def validate(self) -> None:
        check_features(self.features)
        if (size := feature_size(self.features)) != self.observation_size:
            raise ValueError(
                f"observation_size must be {size}, as its features make, got {self.observation_size}"
            )
        if self.action_size != 2:
            raise ValueError(f"action_size must be 2, PushT's, got {self.action_size}")
        for name in ("action_bound", "action_repeat"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.speed_limit is not None and not self.speed_limit > 0:
            raise ValueError(f"speed_limit must be positive, got {self.speed_limit}")
        if any(size < 1 for size in self.hidden_sizes):
            raise ValueError(f"hidden_sizes must be positive, got {self.hidden_sizes}")


def _load_sac(
    folder: Path, config: dict[str, Any], device: torch.device | str, deterministic: bool, seed: int
) -> SACPolicy:
    file, weights = folder / "config.json", folder / "model.safetensors"
    names = [field.name for field in fields(SACConfig)]
    if missing := [name for name in names if name not in config]:
        raise UserError(f"{file}: {', '.join(missing)} missing, without which the policy cannot be opened")
    config = from_dict(SACConfig, {k: v for k, v in config.items() if k != "trained"}, source=f"{file}: ")

    actor = Actor(config.observation_size, config.action_size, config.hidden_sizes)
    try:
        actor.load_state_dict(load_tensors(weights))
    except RuntimeError:
        sizes = (config.observation_size, *config.hidden_sizes, 2 * config.action_size)
        raise UserError(
            f"{weights}: not the weights of an actor with layers of {sizes}, as {file} says"
        ) from None
    if not all(parameter.isfinite().all() for parameter in actor.parameters()):
        raise UserError(f"{weights}: some weights are not finite, so the training had diverged")
    decoder = ActionDecoder(config.action_mode, config.action_bound, config.action_frame, config.speed_limit)
    return SACPolicy(actor.to(device), config.features, decoder, config.action_repeat, deterministic, seed)
