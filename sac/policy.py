"""A SAC checkpoint plays: raw observations in, the task's actions out, in any number of slots."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from common.bounds import Widths
from common.config import from_dict, with_absent
from common.errors import UserError, show
from common.untrusted import load_tensors
from envs.interfaces import PixelObservations, RawObservation, Steerable, Task
from envs.steering import FROZEN, Steering, SteeringConfig, image_size
from envs.tasks import current_config, task_class
from sac.actor import Actor, PixelActor, make_actor
from sac.encoder import EncoderConfig, layer_sides, to_tensors
from sac.escape import Escape

MISSING = "missing, without which the policy cannot be opened"
LARGEST_WEIGHT = 1e6  # of a network that can be played; ours stay below 100


class SACPolicy:
    """A trained actor behind its task's codec.

    Args:
        actor: of the codec's sizes; with an encoder, if it has pictures.
        task: as the actor met it in training.
        deterministic: act with the mode; False samples.
        seed: of the sampling.
        escapes: the mode gets away from where it is stuck, see sac/escape.py.
        steering: what the actor's actions mean, where they are the noise of another policy.
    """

    def __init__(
        self,
        actor: Actor | PixelActor,
        task: Task,
        deterministic: bool = True,
        seed: int = 0,
        escapes: bool = True,
        steering: Steering | None = None,
    ) -> None:
        self.actor = actor
        self.task = task
        self.steering = steering
        self.codec = task.codec(0)
        self.action_size = steering.action_size if steering else self.codec.action_size  # of the actor
        self.image_size = image_size(self.codec, steering)
        self.history = steering.policy.history if steering else 1
        self.n_action_steps = steering.n_action_steps if steering else task.action_repeat
        self.sampled = not deterministic
        self.device = next(actor.parameters()).device
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.slot_generators: list[torch.Generator] = []
        motion = task.must_move if escapes else None
        self._escape = Escape(motion, self.action_size) if motion else None
        self._history = steering.new_history() if steering else None
        self._chunks = np.empty(0)  # (n_action_steps, n, A) each slot's decision, in the task's units
        self._steps_left = np.empty(0, np.int64)  # of it; -1 where an episode begins

    def seed_slots(self, seeds: Sequence[int]) -> None:
        """Give each slot a random generator of its own, so that its episode does not depend on the others."""
        self.slot_generators = [torch.Generator(self.device).manual_seed(seed) for seed in seeds]

    def reset(self, slots: np.ndarray) -> None:
        self._steps_left[slots[slots < len(self._steps_left)]] = -1

    def act(self, observations: RawObservation) -> np.ndarray:
        num_slots = len(next(iter(observations.values())))
        if len(self._steps_left) != num_slots:
            self.codec = self.task.codec(num_slots)
            self._steps_left = np.full(num_slots, -1)
            self._chunks = np.empty(0)
            self._history = self.steering.new_history() if self.steering else None
        begins = self._steps_left < 0
        if self._history:
            self._history.add(observations, begins)
        self.codec.reset(begins, observations)
        due = self._steps_left <= 0
        decided = self._decide(observations, begins, due)
        self._chunks = np.where(due[:, None], decided, self._chunks if self._chunks.size else decided)
        self._steps_left[due] = self.n_action_steps
        actions = self._chunks[self.n_action_steps - self._steps_left, np.arange(num_slots)]
        self._steps_left -= 1
        return actions

    @torch.no_grad()
    def _decide(self, raw: RawObservation, begins: np.ndarray, due: np.ndarray) -> np.ndarray:
        seen, noise = self.codec.encode(raw), None
        if self.sampled:
            noise = self._noise(len(due))
        elif self._escape and (escaping := self._escape.noise(raw, begins, due)) is not None:
            noise = torch.from_numpy(escaping).to(self.device)
        actions, rows = np.zeros((len(due), self.action_size)), slice(None)
        if isinstance(seen, PixelObservations):  # convolutions take time: for the slots that are due alone
            rows = np.flatnonzero(due)
            seen = PixelObservations(*(part[rows] for part in seen))
        if due.any():
            observations = to_tensors(seen, self.device)
            if noise is None:
                decided = self.actor.mode(observations)
            else:
                decided, _ = self.actor.sample(observations, noise[rows])
            actions[rows] = decided.cpu().numpy()
        if self.steering:
            if not due.any():
                return self._chunks
            return self.steering.decode(self.codec, actions, raw, due, self._history)
        decoded = self.codec.decode(actions, raw, due)
        return np.broadcast_to(decoded, (self.n_action_steps, *decoded.shape))

    def _noise(self, slots: int) -> torch.Tensor:
        size = self.action_size
        if self.slot_generators:
            draws = [torch.randn(size, generator=g, device=self.device) for g in self.slot_generators]
            return torch.stack(draws)
        return torch.randn((slots, size), generator=self.generator, device=self.device)


@dataclass(frozen=True)
class SACConfig:
    """`config.json` of a SAC checkpoint, beside `env`, the task's settings, and `trained`, its history.

    Every field has to be there, `encoder` where the task has pictures and `steering` where the actor steers;
    the defaults are no fallbacks.
    """

    algorithm: Literal["sac"] = "sac"  # what kind of policy this is
    task: str = ""  # see envs/tasks.py
    observation_size: int = 0  # numbers that the actor sees
    action_size: int = 0  # numbers that it returns
    hidden_sizes: Widths = ()  # of the actor
    encoder: EncoderConfig = field(default_factory=EncoderConfig)  # before it, where there are pictures
    steering: SteeringConfig = field(default_factory=SteeringConfig)  # of the policy in the folder `frozen`


def decode_config(file: Path, config: dict[str, Any]) -> tuple[SACConfig, Task]:
    """The content of a checkpoint's `config.json`, in today's form.

    Raises:
        UserError: something is missing, unknown or does not fit.
    """
    try:
        config = with_absent(current_config(config), SACConfig())
    except KeyError as error:
        raise UserError(f"{file}: {error.args[0]} {MISSING}") from None
    optional = "encoder", "steering"
    _check_has(
        [*(field.name for field in fields(SACConfig) if field.name not in optional), "env"], config, file
    )
    if "steering" in config:
        if not isinstance(config["steering"], dict):
            raise UserError(f"{file}: steering must hold settings, got {show(config['steering'])}")
        given = {name for name, value in config["steering"].items() if value != ""}
        _check_has([field.name for field in fields(SteeringConfig)], given, f"{file}: steering")
    elif (file.parent / FROZEN).exists():
        raise UserError(f"{file}: steering missing, and {FROZEN} is there to be steered")
    env, source = config["env"], f"{file}: "
    others = {name: value for name, value in config.items() if name not in ("env", "trained")}
    settings = from_dict(SACConfig, others, source)
    if not isinstance(env, dict):
        raise UserError(f"{file}: env must hold the settings of task {settings.task}, got {show(env)}")
    task_type: Any = task_class(settings.task)
    env = with_absent(env, task_type())
    _check_has([field.name for field in fields(task_type)], env, f"{file}: env")
    task = from_dict(task_type, env, source)
    codec = task.codec(0)
    if codec.pixel_shape:
        _check_has(["encoder"], config, file)
        try:
            layer_sides(codec.pixel_shape, settings.encoder)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
    _check_size(file, settings, "observation_size", codec.observation_size)
    if not settings.steering.policy:
        _check_size(file, settings, "action_size", codec.action_size)
    return settings, task


def _check_has(names: Sequence[str], given: Collection[str], source: Path | str) -> None:
    if missing := [name for name in names if name not in given]:
        raise UserError(f"{source}: {', '.join(missing)} {MISSING}")


def _check_size(file: Path, settings: SACConfig, name: str, size: int) -> None:
    if getattr(settings, name) != size:
        raise UserError(f"{file}: {name} must be {size}, as its task makes it, got {getattr(settings, name)}")


def load_sac(
    folder: Path,
    config: dict[str, Any],
    device: torch.device | str = "cpu",
    deterministic: bool = True,
    seed: int = 0,
    escapes: bool = True,
    frozen: Steerable | None = None,
    wanted: Task | None = None,
) -> SACPolicy:
    """Open a checkpoint.

    Args:
        folder: with `config.json` and `model.safetensors`.
        config: the first of them.
        device: of the actor.
        deterministic, seed, escapes: see `SACPolicy`.
        frozen: the policy that it steers; None: it acts itself.
        wanted: the task that it is to play; None: its own.

    Raises:
        UserError: something is missing, the parts do not fit, or it was trained on another task.
    """
    file, weights = folder / "config.json", folder / "model.safetensors"
    settings, task = decode_config(file, config)
    if wanted and type(wanted) is not type(task):
        raise UserError(f"{folder}: this policy was trained on {task.name}, not on {wanted.name}")
    steering = None
    if frozen:
        try:
            steering = Steering(frozen, settings.steering, task)
        except UserError as error:
            raise UserError(f"{file}: {error}") from None
        _check_size(file, settings, "action_size", steering.action_size)
    sizes = (settings.observation_size, settings.action_size, settings.hidden_sizes)
    network = (*sizes, task.codec(0).pixel_shape, settings.encoder)
    tensors = load_tensors(weights)
    with torch.device("meta"):  # nothing as large as a damaged file says is allocated
        expected = {name: tensor.shape for name, tensor in make_actor(*network).state_dict().items()}
    if {name: tensor.shape for name, tensor in tensors.items()} != expected:
        layers = show((sizes[0], *settings.hidden_sizes, 2 * sizes[1]))
        if task.codec(0).pixel_shape:
            layers += f" behind an encoder of filters {show(settings.encoder.filters)}"
        raise UserError(
            f"{weights}: not the weights of an actor with layers of {layers}, as {file.name} says"
        )
    actor = make_actor(*network)
    actor.load_state_dict(tensors)
    if not all((parameter.abs() < LARGEST_WEIGHT).all() for parameter in actor.parameters()):
        raise UserError(
            f"{weights}: some weights are not finite or beyond {LARGEST_WEIGHT:g}: the training had diverged"
        )
    return SACPolicy(actor.to(device), task, deterministic, seed, escapes, steering)
