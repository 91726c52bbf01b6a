"""PushT, equal to `gym_pusht/PushT-v0` bit for bit and an order of magnitude faster.

The class inherits everything that defines the task from gym-pusht: bodies, masses, gains, spaces, reset
distribution, success threshold. It replaces how the same numbers are computed: the control step and the
coverage (`physics.py`) and the pictures (`renderer.py`).

Deliberate differences: `info["n_contacts"]` exists only with `count_contacts=True`, since it costs a Python
callback per contact; `set_state` turns the block before it places it (gym-pusht's `reset_to_state` keeps the
legacy order, in which the angle then moves the block about its centre of gravity); a reset keeps the objects
`space`, `agent` and `block` and sets them back (`rewind.py`); an environment can be pickled at any time, but
without its running episode; the goal cannot be moved, so `goal_pose` takes no other value. Everything else
that gym-pusht reads anew in each step or reset may be assigned here as well: `k_p`, `k_v`, `dt`,
`control_hz`, `success_threshold`, `damping`, `block_cog`, `obs_type`, and the sizes of pictures.
"""

import functools
import math
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import pymunk
from gym_pusht.envs.pusht import PushTEnv as StockPushTEnv

from envs.pusht import physics
from envs.pusht.observations import GOAL_POSE
from envs.pusht.renderer import Renderer, contact_lines
from envs.pusht.rewind import Rewind


class PushTEnv(StockPushTEnv):
    """Push the T onto its place. Arguments, spaces, rewards and infos are those of `gym_pusht/PushT-v0`.

    Args:
        *args, **kwargs: `obs_type`, `render_mode`, `block_cog`, `damping`, `observation_width` and so on.
        count_contacts: add `n_contacts` to the info, as the stock environment does.
    """

    rectangles: tuple[np.ndarray, np.ndarray]  # tee and goal of physics.coverage, from the first episode on

    # Chipmunk's default: no Python callback after a collision.
    _ignore_contacts = pymunk.Space().add_collision_handler(0, 0)._handler.postSolveFunc

    def __init__(self, *args, count_contacts: bool = False, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.count_contacts = count_contacts
        self._state = np.empty(physics.STATE_SIZE)
        self._rewind: Rewind | None = None

    @property
    def gains(self) -> tuple[float, float]:
        """Of the agent's controller: k_p [1/s^2] and k_v [1/s]."""
        return float(self.k_p), float(self.k_v)

    @property
    def substeps(self) -> int:
        """Of the physics, per step."""
        return int(1 / (self.dt * self.control_hz))

    @property
    def goal_pose(self) -> np.ndarray:
        """(3,) x, y in pixels and angle in radians; read-only."""
        return self._goal_pose

    @goal_pose.setter
    def goal_pose(self, pose: Sequence[float]) -> None:
        if not np.array_equal(pose, GOAL_POSE):
            raise ValueError(f"the goal of pusht_fast lies at {GOAL_POSE.tolist()}; gym_pusht's can be moved")
        self._goal_pose = GOAL_POSE.copy()
        self._goal_pose.flags.writeable = False

    def step(self, action: Sequence[float]) -> tuple:
        """Send the agent towards `action` (2,) in pixels for 0.1 s."""
        self.n_contact_points = 0
        self._last_action = action
        x, y = action
        coverage = physics.control_step(
            physics.SPACE_STEP,
            self._addresses,
            float(x),
            float(y),
            self.gains,
            self.substeps,
            self.dt,
            *self.rectangles,
            self._state,
        )
        reward = np.float64(min(coverage / self.success_threshold, 1.0))
        is_success = coverage > self.success_threshold
        info = self._get_info()
        info["is_success"] = is_success
        info["coverage"] = coverage
        return self._observation(), reward, is_success, False, info

    def get_obs(self) -> Any:
        """The observation of `obs_type`, of the simulator as it is now."""
        physics.read_state(self._addresses, self._state)
        return self._observation()

    def get_state(self) -> np.ndarray:
        """(7,) agent x, y, block x, y [px], block angle [rad, unwrapped], agent velocity x, y [px/s]."""
        return np.array([*self.agent.position, *self.block.position, self.block.angle, *self.agent.velocity])

    def begin(self, start: Sequence[float]) -> None:
        """Begin an episode at a start of `starts.starts`, (5,): agent x, y, block x, y [px], angle [rad]."""
        self._setup()
        self._set_state(start)

    def set_state(self, state: Sequence[float]) -> None:
        """Put agent and block where `get_state` found them; without velocity, (5,), the agent rests.

        Nothing remains of what happened before, as in a new simulator. One physics step makes the state take
        effect, as in a reset: a block that overlaps the agent or a wall moves a little.
        """
        self._setup()
        agent_x, agent_y, x, y, angle, *velocity = map(float, state)
        self.agent.position = agent_x, agent_y
        self.block.angle = angle
        self.block.position = x, y
        self.space.step(self.dt)
        self.agent.velocity = tuple(velocity) or (0.0, 0.0)

    def _setup(self) -> None:
        """A simulator without a past: the one that there is, rewound, or a new one for other settings."""
        cog = None if self.block_cog is None else tuple(self.block_cog)
        settings = self.damping, cog, self.count_contacts
        if self._rewind and self._built_for == settings and self._rewind.possible():
            self._rewind()
            self.teleop, self.n_contact_points = False, 0
            return
        super()._setup()
        if not self.count_contacts:
            self.collision_handeler._handler.postSolveFunc = self._ignore_contacts
        parts = [(self.agent, [*self.agent.shapes]), (self.block, self._block_shapes)]
        self._rewind, self._built_for = Rewind(self.space, parts), settings
        self._addresses = physics.addresses(self.space, self.agent, self.block)
        if not hasattr(self, "rectangles"):
            self.rectangles = tee_rectangles(self), goal_rectangles(self)

    def _set_state(self, state: Sequence[float]) -> None:
        super()._set_state([float(number) for number in state])  # of NumPy's floats pymunk is slow to take

    def _get_coverage(self) -> float:
        physics.read_state(self._addresses, self._state)
        _, _, _, _, x, y, _, cos, sin = self._state.tolist()
        return physics.coverage(x, y, cos, sin, *self.rectangles)

    def _observation(self) -> Any:
        agent_x, agent_y, _, _, x, y, angle, cos, sin = self._state.tolist()
        if self.obs_type == "state":
            return np.array([agent_x, agent_y, x, y, angle % (2 * math.pi)])
        if self.obs_type == "environment_state_agent_pos":
            keypoints = physics.to_world(self.rectangles[0], x, y, cos, sin)
            return {"environment_state": keypoints.reshape(16), "agent_pos": np.array([agent_x, agent_y])}
        if self.obs_type == "pixels":
            return self._render()
        return {"pixels": self._render(), "agent_pos": np.array([agent_x, agent_y])}

    def _get_info(self) -> dict:
        state = self._state.copy()
        info = {
            "pos_agent": state[physics.AGENT_POS],
            "vel_agent": state[physics.AGENT_VEL],
            "block_pose": state[physics.BLOCK_POSE],
            "goal_pose": self.goal_pose.copy(),
        }
        if self.count_contacts:
            info["n_contacts"] = super()._get_info()["n_contacts"]
        return info

    def _render(self, visualize: bool = False) -> np.ndarray | None:
        if self.render_mode != "rgb_array":
            return super()._render(visualize)
        if visualize:
            renderer = _renderer(self.visualization_width, self.visualization_height, threading.get_ident())
        else:
            renderer = _renderer(self.observation_width, self.observation_height, threading.get_ident())
        physics.read_state(self._addresses, self._state)
        agent_pos, block_pose = self._state[physics.AGENT_POS], self._state[physics.BLOCK_POSE]
        last_action = self._last_action if visualize else None
        return renderer.draw(agent_pos, block_pose, contact_lines(self.space), last_action)

    def __getstate__(self) -> dict:
        """All but the running episode, for pickle and copy: pymunk would restore its contacts wrongly."""
        episode = {"space", "agent", "block", "_block_shapes", "collision_handeler", "_addresses"}
        state = {name: value for name, value in self.__dict__.items() if name not in episode}
        return state | {"_rewind": None}


def tee_rectangles(env: StockPushTEnv) -> np.ndarray:
    """The corners of the T's bar and stem in its own frame, (2, 4, 2) pixels."""
    return np.array([shape.get_vertices() for shape in env._block_shapes])  # block.shapes is in no order


def goal_rectangles(env: StockPushTEnv) -> np.ndarray:
    """Where those corners belong on the board, (2, 4, 2) pixels."""
    goal = env.get_goal_pose_body(env.goal_pose)
    return np.array([[goal.local_to_world(tuple(corner)) for corner in part] for part in tee_rectangles(env)])


@functools.cache
def _renderer(width: int, height: int, thread: int) -> Renderer:
    """One per size and thread, shared by all environments; each has its own canvas."""
    return Renderer(width, height)
