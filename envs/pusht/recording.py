"""PushT in LeRobot datasets: the columns of `lerobot/pusht` and of `lerobot/pusht_keypoints`."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from envs.interfaces import RawObservation
from envs.pusht import physics
from envs.pusht.demonstrations import PeoplesDemonstrations, fingerprint
from envs.pusht.observations import BOARD_PX, wrap_angle
from envs.pusht.renderer import Renderer
from envs.pusht.vector import MAX_EPISODE_STEPS, PushTVectorEnv
from envs.recording import CardTexts, Features, HumanPolicy, RecordableEnv, Recording

LEVER_ARM_PX = 100.0  # from the T's middle to its far end: turns a difference of angles into pixels
MOTORS = {"motors": ["motor_0", "motor_1"]}
SIM_STATE = ["agent_x", "agent_y", "block_x", "block_y", "block_angle", "agent_vx", "agent_vy"]
CARD = CardTexts(
    tags=("pusht",),
    license="mit",
    url="https://github.com/huggingface/gym-pusht",
    paper="https://arxiv.org/abs/2303.04137 (Chi et al. 2023, Diffusion Policy), where the task is from",
    citation="""@inproceedings{chi2023diffusionpolicy,
  title={Diffusion Policy: Visuomotor Policy Learning via Action Diffusion},
  author={Chi, Cheng and Feng, Siyuan and Du, Yilun and Xu, Zhenjia and Cousineau, Eric
    and Burchfiel, Benjamin and Song, Shuran},
  booktitle={Proceedings of Robotics: Science and Systems (RSS)},
  year={2023}
}""",
    task="PushT: an agent pushes a T onto its place.",
    simulator="Recorded in the simulator of [gym-pusht](https://github.com/huggingface/gym-pusht).",
    demonstrations=(
        "Recorded by people for [Diffusion Policy](https://diffusion-policy.cs.columbia.edu) (Chi et al. "
        "2023; MIT License, (c) 2023 Columbia Artificial Intelligence and Robotics Lab)"
    ),
    as_recorded="; rewards were computed from the recorded states.",
    hindsight=(
        ". Every segment of their demonstrations was moved to where its T ends on the goal and played there "
        "in the simulator, which the states and rewards are of; those that succeed were kept, up to their "
        "success."
    ),
    success="put the T on its place",
    final_success="end with the T on its place",
    starts="`PushT-v0`",
    actions="target moves",
    action_axes=("x", "y"),
    columns=(
        "An action is the place, in pixels of a 512 x 512\nboard, to which the agent is sent. `sim.state` is "
        "the simulator before the action (agent x, y, block x, y, angle,\nagent velocity): enough to draw a "
        "picture of any size, and not an input of policies."
    ),
)


@cache
def _tee() -> np.ndarray:
    """The corners of the T's rectangles in its own frame, (2, 4, 2) pixels."""
    return PushTVectorEnv(1).envs[0].rectangles[0]


class PushTRecordingEnv(PushTVectorEnv):
    """PushTs that show what a policy would see at any size."""

    def pictures(self, size: int, slots: np.ndarray) -> np.ndarray:
        """Pictures (len(slots), size, size, 3) uint8 RGB, without a mark of the action."""
        pictures = []
        for i in slots:
            env = self.envs[i]
            env.observation_width = env.observation_height = size
            pictures.append(env._render())
            env.observation_width = env.observation_height = self.image_size
        return np.stack(pictures)


class PushTRecording(Recording):
    """PushT's columns.

    `observation.state` is the agent's position (2,), `observation.environment_state` the T's keypoints (16,),
    `action` the target (2,), in pixels; `sim.state` (7,) as in `PushTEnv.get_state`: pixels, radians, pixels
    per second.
    """

    robot_type = "unknown"  # lerobot/pusht says so
    replays_in = "gym_pusht/PushT-v0"
    unit = "px"
    ends_at_success = False
    replay_tolerance = 1e-4  # a float32 of 500 is off by 3e-5
    picture_tolerance = 0.0
    import_tolerance = 1.0  # people's were recorded with another version of the physics
    card = CARD

    @property
    def action(self) -> dict[str, Any]:
        return {"dtype": "float32", "shape": (2,), "names": MOTORS}

    @property
    def simulator(self) -> Features:
        return {"sim.state": {"dtype": "float64", "shape": (len(SIM_STATE),), "names": SIM_STATE}}

    def observations(self, pictures: bool) -> Features:
        keypoints = {"dtype": "float32", "shape": (16,), "names": ["keypoints"]}
        seen = {} if pictures else {"observation.environment_state": keypoints}
        return seen | {"observation.state": {"dtype": "float32", "shape": (2,), "names": MOTORS}}

    def columns(self, observations: RawObservation) -> dict[str, np.ndarray]:
        agent_pos, keypoints = observations["agent_pos"], observations["keypoints"]
        parts = agent_pos, observations["block_pose"], observations["agent_vel"]
        return {
            "observation.state": agent_pos,
            "observation.environment_state": keypoints.reshape(len(keypoints), 16),
            "sim.state": np.concatenate(parts, axis=1),
        }

    def raw_observations(self, stored: dict[str, np.ndarray]) -> RawObservation:
        """All from `sim.state`; without it, as in datasets of others, no velocity and no pose of the T."""
        raw: RawObservation = {}
        if "observation.state" in stored:
            raw["agent_pos"] = stored["observation.state"].astype(np.float64)
        if "observation.environment_state" in stored:
            raw["keypoints"] = stored["observation.environment_state"].astype(np.float64).reshape(-1, 8, 2)
        if "sim.state" in stored:
            agent_pos, block_pose, agent_vel = np.split(stored["sim.state"], [2, 5], axis=1)
            raw |= {"agent_pos": agent_pos, "block_pose": block_pose, "agent_vel": agent_vel}
            angles = block_pose[:, 2:]
            states = np.concatenate(
                [agent_pos, agent_vel, block_pose, np.cos(angles), np.sin(angles)], axis=1
            )
            raw["keypoints"] = physics.keypoints(states, _tee())
        return raw

    def terminated(self, stored: dict[str, np.ndarray]) -> np.ndarray:
        return stored["next.success"]

    def env(self, num_envs: int, image_size: int = 0, hold: int = 0) -> PushTRecordingEnv:
        return PushTRecordingEnv(num_envs, image_size, MAX_EPISODE_STEPS + hold, hold)

    def resting_actions(self, observations: RawObservation) -> np.ndarray:
        """The targets (n, 2) where the agents are."""
        return observations["agent_pos"]

    def reset_options(self, state: np.ndarray) -> dict[str, Any]:
        """Agent and block as in the state, at rest; what is no number, or far off the board, is moved."""
        start = np.nan_to_num(state[:5].astype(np.float64))
        return {"states": np.clip(start, -BOARD_PX, 2 * BOARD_PX)[None]}

    def difference(self, observations: RawObservation, stored: dict[str, np.ndarray], exact: bool) -> float:
        """Pixels; an angle counts as the way of the T's far end. `exact` compares velocities, too."""
        replayed = {name: values[0] for name, values in self.columns(observations).items()}
        state, expected = stored["sim.state"], replayed["sim.state"]
        turn = LEVER_ARM_PX * wrap_angle(state[4] - expected[4])
        gaps = [state[:4] - expected[:4], [turn]]
        if exact:
            gaps.append(state[5:] - expected[5:])
        gaps += [stored[name] - replayed[name] for name in replayed if name != "sim.state" and name in stored]
        return float(np.abs(np.concatenate(gaps)).max())

    def draw(self, states: np.ndarray, size: int) -> np.ndarray:
        renderer = Renderer(size, size)
        return np.stack([renderer.draw(state[:2], state[2:5]) for state in states])

    def background(self, size: int) -> np.ndarray:
        return Renderer(size, size).background

    def human_policy(self, env: RecordableEnv, stop: np.ndarray, episodes: int) -> HumanPolicy:
        from envs.pusht.human import PointerWindow  # pygame's window, which few need

        assert isinstance(env, PushTVectorEnv)
        return PointerWindow(env, stop, episodes)

    def demonstrations(self, path: Path, resolution: int, hindsight: bool) -> PeoplesDemonstrations:
        return PeoplesDemonstrations(path, resolution, hindsight)

    def fingerprint(self, path: Path) -> str:
        return fingerprint(path)
