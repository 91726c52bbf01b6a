"""CarRacing in LeRobot datasets: pictures, and the numbers of the bar below them."""

from typing import Any

import numpy as np

from common.errors import UserError
from envs.car_racing.vector import CarRacingVectorEnv
from envs.interfaces import RawObservation
from envs.recording import CardTexts, Features, HumanPolicy, RecordableEnv, Recording

NUMBERS = ["speed", "front_left", "front_right", "rear_left", "rear_right", "steering", "turning"]
ACTION = ["steering", "gas", "brake"]
OFF_THE_FIELD = -100.0  # the reward of the step that leaves it
CARD = CardTexts(
    tags=("car-racing", "gymnasium"),
    license="mit",
    url="https://gymnasium.farama.org/environments/box2d/car_racing/",
    paper="https://arxiv.org/abs/2407.17032 (Towers et al. 2024, Gymnasium)",
    citation="""@article{towers2024gymnasium,
  title={Gymnasium: A Standard Interface for Reinforcement Learning Environments},
  author={Towers, Mark and Kwiatkowski, Ariel and Terry, Jordan and others},
  journal={arXiv preprint arXiv:2407.17032},
  year={2024}
}""",
    task="CarRacing-v3: a car drives a lap on a road that is another one in every episode.",
    simulator="Recorded in Gymnasium's simulator, drawn by a renderer of the same picture.",
    success="drove a lap",
    final_success="end with the lap",
    starts="`CarRacing-v3`",
    actions="changes of actions",
    action_axes=tuple(ACTION),
    columns=(
        "An action is the steering,\nfrom -1, left, to 1, and gas and brake, from 0 to 1. "
        "`observation.state` is the bar below the picture: speed in units of\nlength per second, rad/s of "
        "the four wheels, rad of the steering, rad/s of the car."
    ),
)


class CarRacingRecordingEnv(CarRacingVectorEnv):
    """Cars whose pictures are recorded at any size."""

    def pictures(self, size: int, slots: np.ndarray) -> np.ndarray:
        """What a policy sees, (len(slots), size, size, 3) uint8 RGB."""
        return self.frames(size, slots)


class CarRacingRecording(Recording):
    """`observation.image` and `observation.state` (7,), see `Car`; `action` (3,).

    Box2D's state cannot be set, so episodes are replayed from their seeds alone.
    """

    robot_type = "car"
    replays_in = "Gymnasium's CarRacing-v3"
    unit = "units"
    ends_at_success = True
    replay_tolerance = import_tolerance = 1e-4  # float32 of up to some hundred rad/s
    picture_tolerance = 3.0  # Gymnasium's own show the score; ours were lighter by 2 once
    card = CARD

    @property
    def action(self) -> dict[str, Any]:
        return {"dtype": "float32", "shape": (len(ACTION),), "names": ACTION}

    def observations(self, pictures: bool) -> Features:
        if not pictures:
            raise UserError("observations must be pixels: CarRacing's numbers do not say where the road is")
        return {"observation.state": {"dtype": "float32", "shape": (len(NUMBERS),), "names": NUMBERS}}

    def columns(self, observations: RawObservation) -> dict[str, np.ndarray]:
        return {"observation.state": observations["state"]}

    def raw_observations(self, stored: dict[str, np.ndarray]) -> RawObservation:
        return {"state": stored["observation.state"]}

    def terminated(self, stored: dict[str, np.ndarray]) -> np.ndarray:
        """After a lap, and where the field is left; not when the time is over."""
        return stored["next.success"].astype(bool) | (stored["next.reward"] == OFF_THE_FIELD)

    def env(self, num_envs: int, image_size: int = 0, hold: int = 0) -> RecordableEnv:
        return CarRacingRecordingEnv(num_envs, image_size)

    def difference(self, observations: RawObservation, stored: dict[str, np.ndarray], exact: bool) -> float:
        return float(np.abs(observations["state"][0] - stored["observation.state"]).max())

    def human_policy(self, env: RecordableEnv, stop: np.ndarray, episodes: int) -> HumanPolicy:
        from envs.car_racing.human import KeyboardWindow  # pygame's window, which few need

        assert isinstance(env, CarRacingVectorEnv)
        return KeyboardWindow(env, stop, episodes)
