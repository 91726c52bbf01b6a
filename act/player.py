"""An imitation policy plays: raw observations in, the task's actions out, in any number of slots.

The policy predicts chunks of actions. Each slot has a queue of them; it looks again when its queue is empty.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, PolicyFeature
from lerobot.policies.act.modeling_act import ACTTemporalEnsembler
from lerobot.policies.pretrained import PreTrainedPolicy
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import ACTION

from act.kinds import chunk_size, find_kind
from common.errors import UserError, reason
from envs.history import History
from envs.interfaces import RawObservation, Task

# Observations per pass of the network: always as many, filled up if need be, so that a chunk does not depend
# on how many others are due; few pictures, for they are most of the work.
VECTORS_PER_PASS, PICTURES_PER_PASS = 32, 8


class ChunkPlayer:
    """A policy that predicts chunks, in any number of slots: an `envs.interfaces.Policy`.

    Args:
        policy: LeRobot's, on its device.
        preprocessor: LeRobot's; normalises.
        postprocessor: LeRobot's; the way back.
        task: what is played.
        n_action_steps: of a chunk are played; None: as the policy was trained to.
        temporal_ensemble_coeff: average overlapping chunks instead, see LeRobot's `ACTTemporalEnsembler`;
            None: as the policy was trained to.
        source: to open an error with.

    Raises:
        UserError: the policy sees or does what the task does not have, or cannot play so many steps.
    """

    def __init__(
        self,
        policy: PreTrainedPolicy,
        preprocessor: PolicyProcessorPipeline,
        postprocessor: PolicyProcessorPipeline,
        task: Task,
        n_action_steps: int | None = None,
        temporal_ensemble_coeff: float | None = None,
        source: str | Path = "policy",
    ) -> None:
        self.policy = policy
        self.preprocessor = preprocessor
        self.postprocessor = postprocessor
        self.task = task
        config = policy.config
        self.kind = find_kind(config.type)
        self.chunk_size = chunk_size(config)
        if temporal_ensemble_coeff is not None and n_action_steps not in (None, 1):
            raise UserError(
                f"{source}: n_action_steps must be 1 with temporal_ensemble_coeff, got {n_action_steps}"
            )
        if temporal_ensemble_coeff is None and n_action_steps in (None, 1):
            temporal_ensemble_coeff = getattr(config, "temporal_ensemble_coeff", None)
        self.temporal_ensemble_coeff = temporal_ensemble_coeff
        if temporal_ensemble_coeff is not None:
            _check_ensemble(temporal_ensemble_coeff, self.chunk_size, source)
            n_action_steps = 1
        trained = getattr(config, "n_action_steps", self.chunk_size)
        self.n_action_steps: int = trained if n_action_steps is None else n_action_steps
        if not 1 <= self.n_action_steps <= self.chunk_size:
            raise UserError(
                f"{source}: n_action_steps must be from 1 to {self.chunk_size}, its chunk_size, "
                f"got {self.n_action_steps}"
            )

        self.features = config.input_features or {}
        self.image_size = _image_size(self.features, source)
        env = task.vector_env(1, self.image_size)
        shown = {name: space.shape or () for name, space in env.single_observation_space.items()}
        self.names = _raw_names(self.features, task, shown, source)
        self.lowest, self.highest = env.single_action_space.low, env.single_action_space.high  # (A,) each
        if (shape := tuple((config.output_features or {})[ACTION].shape)) != self.lowest.shape:
            raise UserError(
                f"{source}: its actions are of shape {shape}, {task.name}'s of {self.lowest.shape}"
            )

        self.rows_per_pass = PICTURES_PER_PASS if self.image_size else VECTORS_PER_PASS
        self._queues = np.empty((0, self.n_action_steps, *shape))
        self._left = np.empty(0, np.int64)  # actions in each slot's queue
        seen = config.observation_delta_indices
        self.history = len(seen or [0])
        self._sees_history = seen is not None  # its inputs have an axis for it, of length 1 or more
        self._latest = History(self.history)
        self._begun = np.empty(0, bool)  # slots whose episode has begun
        self._ensemblers: list[ACTTemporalEnsembler] = []

    def seed_slots(self, seeds: Sequence[int]) -> None:
        """Nothing here is random."""

    def reset(self, slots: np.ndarray) -> None:
        known = slots[slots < len(self._left)]
        self._left[known] = 0
        self._begun[known] = False
        for slot in known if self._ensemblers else ():
            self._ensemblers[slot].reset()

    def act(self, observations: RawObservation) -> np.ndarray:
        num_slots = len(next(iter(observations.values())))
        if len(self._left) != num_slots:
            self._begin(num_slots)
        seen = {name: observations[name] for name in self.names.values()}
        if self._sees_history:
            seen = self._latest.add(seen, begins=~self._begun)
            self._begun[:] = True
        due = np.flatnonzero(self._left == 0)
        if len(due):
            self._queues[due] = self._decide({name: values[due] for name, values in seen.items()}, due)
            self._left[due] = self.n_action_steps
        actions = self._queues[np.arange(num_slots), self.n_action_steps - self._left]
        self._left -= 1
        return np.clip(actions, self.lowest, self.highest)

    def act_once(self, source: str | Path) -> None:
        """Check by one decision that policy and processors fit together; nothing of it is kept.

        Raises:
            UserError: they do not, or the actions are not finite.
        """
        observations, _ = self.task.vector_env(1, self.image_size).reset(seed=[0])
        try:
            with torch.random.fork_rng():
                finite = np.isfinite(self.act(observations)).all()
        except Exception as error:  # LeRobot and PyTorch raise many kinds
            raise UserError(f"{source}: this {self.kind.title} cannot act: {reason(error)}") from None
        if not finite:
            raise UserError(f"{source}: its actions are not finite numbers")
        self._begin(0)

    def _begin(self, num_slots: int) -> None:
        """Empty queues for so many slots."""
        self._queues = np.zeros((num_slots, *self._queues.shape[1:]))
        self._left = np.zeros(num_slots, np.int64)
        self._begun = np.zeros(num_slots, bool)
        self._latest = History(self.history)
        coeff = self.temporal_ensemble_coeff
        if coeff is not None:
            self._ensemblers = [ACTTemporalEnsembler(coeff, self.chunk_size) for _ in range(num_slots)]

    def _decide(self, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        """The next actions (n, n_action_steps, A), in the task's units, of n slots."""
        chunks = self._chunks(raw, self._noise(slots))
        if self._ensemblers:
            rows = zip(slots, chunks.split(1), strict=True)
            chunks = torch.cat([self._ensemblers[slot].update(chunk)[:, None] for slot, chunk in rows])
        return self._actions(chunks[:, : self.n_action_steps])

    def _noise(self, slots: np.ndarray) -> np.ndarray | None:
        """What the next chunks of these slots are made of, if the policy has such a thing."""
        return None

    def _actions(self, normalised: torch.Tensor) -> np.ndarray:
        """Actions (n, T, A) in the task's units."""
        return self.postprocessor(normalised.flatten(0, 1)).reshape(normalised.shape).double().numpy()

    def _chunks(self, raw: RawObservation, noise: np.ndarray | None) -> torch.Tensor:
        """Normalised chunks (n, chunk_size, A) of any number of observations."""
        count = len(next(iter(raw.values())))
        parts = [slice(start, start + self.rows_per_pass) for start in range(0, count, self.rows_per_pass)]
        return torch.cat(
            [
                self._pass({k: v[part] for k, v in raw.items()}, None if noise is None else noise[part])
                for part in parts
            ]
        )

    @torch.no_grad()
    def _pass(self, raw: RawObservation, noise: np.ndarray | None) -> torch.Tensor:
        """Normalised chunks (n, chunk_size, A), n at most `rows_per_pass`."""
        num_rows = len(next(iter(raw.values())))
        rows = np.minimum(np.arange(self.rows_per_pass), num_rows - 1)
        observation = lerobot_observation(raw, self.features, self.names, self._sees_history)
        said = {"task": [self.task.sentence] * self.rows_per_pass} if self.kind.language else {}
        batch = self.preprocessor({name: tensor[rows] for name, tensor in observation.items()} | said)
        inputs = {name: batch[name] for name in (*observation, *self.kind.language)}
        self.policy.eval()  # it may be the one that is being trained
        chosen = None
        if noise is not None:
            chosen = torch.from_numpy(noise[rows]).to(next(self.policy.parameters()).device, torch.float32)
        return self.kind.chunks(self.policy, inputs, chosen)[:num_rows].float()


def lerobot_observation(
    raw: RawObservation, features: dict[str, PolicyFeature], names: dict[str, str], history: bool = False
) -> dict[str, torch.Tensor]:
    """Raw observations of n slots as `lerobot-eval` gives them to a policy, before normalisation.

    Args:
        raw: in the task's units, (n, ...) each, or (n, history, ...).
        features: that the policy sees.
        names: of the raw observation that each of them is.
        history: there are several observations of each slot.

    Returns:
        float32: pictures (n, 3, height, width) in [0, 1], vectors (n, k) in the task's units; with a history
        (n, history, ...).
    """
    observation = {}
    for name, feature in features.items():
        values = torch.from_numpy(raw[names[name]])
        if feature.type is FeatureType.VISUAL:
            observation[name] = values.movedim(-1, -3).to(torch.float32).contiguous() / 255.0
        else:
            leading = values.shape[:2] if history else values.shape[:1]
            observation[name] = values.reshape(*leading, *feature.shape).to(torch.float32)
    return observation


def _check_ensemble(coeff: float, chunk_size: int, source: str | Path) -> None:
    """Raise UserError where the weights of overlapping chunks are no numbers to average with."""
    sums = torch.exp(-coeff * torch.arange(chunk_size)).cumsum(0)
    if not sums.isfinite().all():
        raise UserError(f"{source}: temporal_ensemble_coeff must be nearer to 0, say 0.01, got {coeff:g}")


def _image_size(features: dict[str, PolicyFeature], source: str | Path) -> int:
    """The side in pixels of the pictures that a policy sees, 0 for none.

    Raises:
        UserError: they are not square, or of several sizes.
    """
    shapes = {name: tuple(f.shape) for name, f in features.items() if f.type is FeatureType.VISUAL}
    sides = {shape[-1] for shape in shapes.values()}
    for name, shape in shapes.items():
        if len(sides) > 1 or shape != (3, shape[-1], shape[-1]):
            raise UserError(f"{source}: looks at {name} {shape}; pictures must be square and of one size")
    return max(sides, default=0)


def _raw_names(
    features: dict[str, PolicyFeature], task: Task, shown: dict[str, tuple[int, ...]], source: str | Path
) -> dict[str, str]:
    """Which raw observation of the task each feature of a policy is.

    A camera of another name than the task's is the task's, where that has one only.

    Args:
        features: that the policy sees.
        task: names them.
        shown: shapes of the task's raw observations.
        source: to open an error with.

    Raises:
        UserError: the task does not have one, or has it in another shape.
    """
    cameras = [name for name, feature in features.items() if feature.type is FeatureType.VISUAL]
    pictures = [raw for raw in task.lerobot_names.values() if len(shown.get(raw, ())) == 3]
    if cameras and pictures and len(cameras) > len(pictures):
        raise UserError(f"{source}: looks at {len(cameras)} cameras, {task.name} has {len(pictures)}")
    names = {}
    for name, feature in features.items():
        raw = task.lerobot_names.get(name, pictures[0] if name in cameras and len(pictures) == 1 else "")
        shape = tuple(feature.shape)
        wanted = (*shape[1:], shape[0]) if name in cameras else shape
        if raw not in shown or wanted != (shown[raw] if name in cameras else (int(np.prod(shown[raw])),)):
            raise UserError(f"{source}: looks at {name} {shape}, which {task.name} does not show")
        names[name] = raw
    return names
