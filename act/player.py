"""ACT plays: raw observations in; chunks of actions, one at a time, out; in any number of environments."""

from pathlib import Path

import numpy as np
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.configs.types import FeatureType
from lerobot.policies import make_pre_post_processors
from lerobot.policies.act.modeling_act import ACTPolicy, ACTTemporalEnsembler
from lerobot.processor import PolicyProcessorPipeline
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_STATE

from act.policy import skip_attention_weights
from common.checkpoint import load_tensors
from common.errors import UserError, reason
from envs.pusht.observations import RawObservation

# Observations per pass, by whether they are pictures: always as many, filled up if need be, so that a chunk
# does not depend on how many others are due; few pictures, for they are most of the work.
ROWS = {False: 32, True: 8}


class ACTPlayer:
    """A trained ACT in any number of slots, each with its own queue of actions.

    Args:
        policy: LeRobot's, on its device.
        preprocessor: LeRobot's; normalises.
        postprocessor: LeRobot's; the way back.
        n_action_steps: of a chunk are played; None: as the policy was trained to.
        temporal_ensemble_coeff: average overlapping chunks instead, see LeRobot's `ACTTemporalEnsembler`;
            None: as the policy was trained to.
        source: to open an error with.

    Raises:
        UserError: the policy looks at what PushT does not show, or cannot play so many steps.
    """

    def __init__(
        self,
        policy: ACTPolicy,
        preprocessor: PolicyProcessorPipeline,
        postprocessor: PolicyProcessorPipeline,
        n_action_steps: int | None = None,
        temporal_ensemble_coeff: float | None = None,
        source: str | Path = "policy",
    ) -> None:
        self.policy = policy
        self.preprocessor = preprocessor
        self.postprocessor = postprocessor
        config = policy.config
        if temporal_ensemble_coeff is not None and n_action_steps not in (None, 1):
            raise UserError(
                f"{source}: n_action_steps must be 1 with temporal_ensemble_coeff, got {n_action_steps}"
            )
        if temporal_ensemble_coeff is None and n_action_steps in (None, 1):
            temporal_ensemble_coeff = config.temporal_ensemble_coeff
        self.temporal_ensemble_coeff = temporal_ensemble_coeff
        if self.temporal_ensemble_coeff is not None:
            n_action_steps = 1
        self.n_action_steps = config.n_action_steps if n_action_steps is None else n_action_steps
        if not 1 <= self.n_action_steps <= config.chunk_size:
            raise UserError(
                f"{source}: n_action_steps must be from 1 to {config.chunk_size}, its chunk_size, "
                f"got {n_action_steps}"
            )
        if self.temporal_ensemble_coeff is not None:
            _check_ensemble(self.temporal_ensemble_coeff, config.chunk_size, source)
        self.pixels = _check_inputs(policy, source)
        self.rows = ROWS[self.pixels > 0]
        self._queue = np.empty((0, self.n_action_steps, 2))
        self._left = np.empty(0, np.int64)  # actions in each slot's queue
        self._ensemblers: list[ACTTemporalEnsembler] = []

    def reset(self, episodes: np.ndarray) -> None:
        known = episodes[episodes < len(self._left)]
        self._left[known] = 0
        if self.temporal_ensemble_coeff is not None:
            for slot in known:
                self._ensemblers[slot].reset()

    def act(self, observations: RawObservation) -> np.ndarray:
        num_slots = len(observations["agent_pos"])
        if len(self._left) != num_slots:
            self._queue = np.zeros((num_slots, self.n_action_steps, 2))
            self._left = np.zeros(num_slots, np.int64)
            chunk_size = self.policy.config.chunk_size
            self._ensemblers = [
                ACTTemporalEnsembler(self.temporal_ensemble_coeff, chunk_size)
                for _ in range(num_slots if self.temporal_ensemble_coeff is not None else 0)
            ]
        due = np.flatnonzero(self._left == 0)
        if len(due):
            self._queue[due] = self._decide({name: values[due] for name, values in observations.items()}, due)
            self._left[due] = self.n_action_steps
        actions = self._queue[np.arange(num_slots), self.n_action_steps - self._left]
        self._left -= 1
        return np.clip(actions, 0.0, 512.0)

    def _decide(self, raw: RawObservation, slots: np.ndarray) -> np.ndarray:
        """The next actions (n, n_action_steps, 2), in pixels, of n slots."""
        chunks = torch.cat(
            [
                self._chunks({name: values[start : start + self.rows] for name, values in raw.items()})
                for start in range(0, len(slots), self.rows)
            ]
        )
        if self.temporal_ensemble_coeff is not None:
            rows = zip(slots, chunks.split(1), strict=True)
            chunks = torch.cat([self._ensemblers[slot].update(chunk)[:, None] for slot, chunk in rows])
        actions = chunks[:, : self.n_action_steps]
        return self.postprocessor(actions.flatten(0, 1)).reshape(actions.shape).double().numpy()

    def _chunks(self, raw: RawObservation) -> torch.Tensor:
        """Normalised chunks (n, chunk_size, 2), n at most `rows`."""
        num_rows = len(raw["agent_pos"])
        rows = np.minimum(np.arange(self.rows), num_rows - 1)
        observation = lerobot_observation(raw, self.policy)
        batch = self.preprocessor({name: tensor[rows] for name, tensor in observation.items()})
        inputs = {name: batch[name] for name in observation}
        return self.policy.predict_action_chunk(inputs)[:num_rows].float()


def lerobot_observation(raw: RawObservation, policy: ACTPolicy) -> dict[str, torch.Tensor]:
    """What PushT shows under LeRobot's names and in its units, as `lerobot-eval` gives it to a policy."""
    observation = {}
    for name, feature in policy.config.input_features.items():
        if feature.type is FeatureType.VISUAL:
            pixels = torch.from_numpy(raw["pixels"]).permute(0, 3, 1, 2)
            observation[name] = pixels.to(torch.float32).contiguous() / 255.0
        elif name == OBS_ENV_STATE:
            observation[name] = torch.from_numpy(raw["keypoints"].reshape(-1, 16)).to(torch.float32)
        else:
            observation[name] = torch.from_numpy(raw["agent_pos"]).to(torch.float32)
    return observation


def _check_ensemble(coeff: float, chunk_size: int, source: str | Path) -> None:
    """Raise UserError where the weights of overlapping chunks are no numbers to average with."""
    sums = torch.exp(-coeff * torch.arange(chunk_size)).cumsum(0)
    if not sums.isfinite().all():
        raise UserError(f"{source}: temporal_ensemble_coeff must be nearer to 0, say 0.01, got {coeff:g}")


def _check_inputs(policy: ACTPolicy, source: str | Path) -> int:
    """The side in pixels of the pictures that the policy looks at, 0 for none."""
    shapes = {OBS_STATE: (2,), OBS_ENV_STATE: (16,)}
    sides = []
    for name, feature in policy.config.input_features.items():
        shape = tuple(feature.shape)
        if feature.type is FeatureType.VISUAL and len(shape) == 3 and shape[0] == 3 and shape[1] == shape[2]:
            sides.append(shape[1])
        elif shapes.get(name) != shape:
            raise UserError(f"{source}: looks at {name} {shape}, which PushT does not show")
    if len(sides) > 1:
        raise UserError(f"{source}: looks at {len(sides)} cameras, PushT has one")
    if (shape := tuple(policy.config.output_features[ACTION].shape)) != (2,):
        raise UserError(f"{source}: its actions are of shape {shape}, PushT's of (2,)")
    return sides[0] if sides else 0


def load_player(
    folder: Path,
    device: torch.device | str = "cpu",
    n_action_steps: int | None = None,
    temporal_ensemble_coeff: float | None = None,
) -> ACTPlayer:
    """Open a folder as LeRobot saves a policy to it.

    Raises:
        UserError: it is not whole, or not a policy for PushT.
    """
    weights = load_tensors(folder / "model.safetensors")
    try:
        config = PreTrainedConfig.from_pretrained(folder)
        config.device = torch.device(device).type
        config.pretrained_backbone_weights = None  # they are in the checkpoint
        policy = ACTPolicy(config)
        policy.load_state_dict(weights)
        processors = make_pre_post_processors(
            config, str(folder), preprocessor_overrides={"device_processor": {"device": config.device}}
        )
    except Exception as error:  # draccus, LeRobot and PyTorch raise many kinds
        raise UserError(f"{folder}: this ACT cannot be opened: {reason(error)}") from None
    if not all(weight.isfinite().all() for weight in weights.values()):
        raise UserError(f"{folder}: some weights are not finite, so the training had diverged")
    skip_attention_weights(policy)
    policy = policy.to(device).eval()
    return ACTPlayer(policy, *processors, n_action_steps, temporal_ensemble_coeff, source=folder)
