"""A policy that is made its own mirror image, so that a learner that steers it may mirror its decisions.

Of an observation and its mirror image the policy always sees the same one, whichever of the two is there.
Where it saw the mirror image, its chunk is mirrored back.
"""

import math

import numpy as np
import torch

from common.errors import UserError
from envs.interfaces import PIXELS, MirroredTask, RawObservation, Steerable, Symmetry, Task


class SymmetricChunks:
    """The chunks of a policy that is made its own mirror image; called as `Steerable.chunk` is.

    Noise of the shape (steps, A), with A numbers as an action, is mirrored as actions are. Other noise, such
    as a latent, stays as it is.

    Args:
        policy: is asked for chunks.
        task: has the mirror, and is what the policy plays.

    Raises:
        UserError: the task cannot mirror what the policy sees, or it sees pictures alone.
    """

    def __init__(self, policy: Steerable, task: Task) -> None:
        if not isinstance(task, MirroredTask):
            raise UserError(f"steering.symmetric must be false: {task.name} cannot mirror what policies see")
        self.policy, self.task = policy, task
        env = task.vector_env(1, policy.image_size)
        spaces, action_size = env.single_observation_space, env.single_action_space.shape[0]
        if set(policy.sees) <= {PIXELS}:
            raise UserError("steering.symmetric must be false: steering.policy sees nothing but pictures")
        self.sizes = {name: math.prod(spaces[name].shape or ()) for name in policy.sees}
        self.sizes["action"] = action_size
        self.lowest, self.highest = env.single_action_space.low, env.single_action_space.high  # (A,) each
        self.linear = np.eye(policy.noise_shape[-1])  # noise -> noise @ linear in the mirror
        if policy.noise_shape[1:] == (action_size,):
            origin = task.mirror_feature("action", np.zeros((1, action_size)), drawn=False)
            self.linear = task.mirror_feature("action", np.eye(action_size), drawn=False) - origin

    def __call__(self, observations: RawObservation, noise: np.ndarray) -> np.ndarray:
        seen = {name: observations[name] for name in self.policy.sees}
        mirrored = {name: self._mirrored(name, values) for name, values in seen.items()}
        swapped = _sum(seen) < _sum(mirrored)  # the one with the larger sum is seen
        chosen = {name: _where(swapped, mirrored[name], values) for name, values in seen.items()}
        chunks = self.policy.chunk(chosen, _where(swapped, noise @ self.linear, noise))
        played = _where(swapped, self._mirrored("action", chunks), chunks)
        return np.clip(played, self.lowest, self.highest)  # the mirror of pictures may lead a pixel out

    def symmetry(self, of_task: Symmetry, directions: np.ndarray) -> Symmetry:
        """Of what the learner sees, and of actions that choose among directions (D, *noise_shape).

        Args:
            of_task: of what the learner sees, and of actions that are not used here.
            directions: of the noise; the mirror image of each is one of them, or its opposite.

        Raises:
            UserError: it is not.
        """
        flat = directions.reshape(len(directions), -1)
        image = (directions @ self.linear).reshape(flat.shape) @ flat.T / (flat**2).sum(axis=1)
        order = np.abs(image).argmax(axis=0)
        if not np.allclose(np.abs(image), np.eye(len(order))[order].T):
            raise UserError("env.mirror must be false: the task's mirror mixes the numbers of an action")
        signs = np.sign(image[order, np.arange(len(order))]).astype(np.float32)
        return of_task._replace(action_order=order, action_signs=signs)

    def _mirrored(self, name: str, values: np.ndarray) -> np.ndarray:
        """Values (n, ...) of a raw observation or of `action` in the mirror; more axes may lead."""
        assert isinstance(self.task, MirroredTask)
        if name == PIXELS:
            return self.task.mirror_pictures(torch.from_numpy(values).movedim(-1, -3)).movedim(-3, -1).numpy()
        flat = values.reshape(-1, self.sizes[name])
        return self.task.mirror_feature(name, flat, drawn=self.policy.image_size > 0).reshape(values.shape)


def _sum(observations: RawObservation) -> np.ndarray:
    """(n,): of all numbers but pictures, which tells an observation from its mirror image."""
    numbers = [values.reshape(len(values), -1) for name, values in observations.items() if name != PIXELS]
    return np.concatenate(numbers, axis=1).sum(axis=1, dtype=float)


def _where(rows: np.ndarray, values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(n, ...): of `values` where `rows` (n,) bool, of `others` elsewhere."""
    return np.where(rows.reshape(-1, *[1] * (values.ndim - 1)), values, others)
