"""Actions of a task as those of a network: the inverse of what codecs decode."""

import numpy as np
import pytest

from common.errors import UserError
from envs.car_racing.task import CarRacing
from envs.pixels import PixelConfig
from envs.pusht.task import PushT
from envs.visual_pendulum import VisualPendulum
from sac.agent import AgentConfig
from sac.demonstrations import OfflineConfig, OfflineData

BOARD = {"action_frame": "board", "mirror": False}
TASKS = {
    "relative": PushT(),
    "delta": PushT(action_mode="delta", action_bound=30.0),
    "absolute": PushT(action_mode="absolute", **BOARD),
    "pendulum": VisualPendulum(pixels=PixelConfig(size=8)),
    "pedals": CarRacing(pixels=PixelConfig(size=8), gas=0.5, steering=0.7),
    "three axes": CarRacing(pixels=PixelConfig(size=8), axes=3, brake=0.5),
}


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_encoded_actions_are_those_that_were_decoded(task):
    rng, everywhere = np.random.default_rng(0), np.ones(20, bool)
    raw = {
        "agent_pos": rng.uniform(200, 300, (20, 2)),
        "block_pose": rng.uniform(-3, 3, (20, 3)),
        "state": np.zeros((20, 3)),
        "pixels": np.zeros((20, 8, 8, 3), np.uint8),
    }
    codec = task.codec(20)
    codec.reset(everywhere, raw)
    for _ in range(2):  # from what is remembered of the first, too
        actions = rng.uniform(-1, 1, (20, codec.action_size))
        again = task.codec(20)
        again.load_state_dict(codec.state_dict())
        decoded = codec.decode(actions, raw, everywhere)
        np.testing.assert_allclose(again.encode_actions(decoded, raw), actions, atol=1e-6)


def test_an_axis_of_no_range_is_encoded_as_nothing():
    for axes in (2, 3):
        codec = CarRacing(pixels=PixelConfig(size=8), axes=axes, steering=0.0).codec(1)
        actions = codec.encode_actions(np.array([[0.0, 1.0, 0.0]]), {})
        assert actions[0, 0] == 0 and actions[0, 1] == 1


def test_a_codec_without_an_inverse_is_refused():
    class OneWay:
        """The codec of somebody's own task."""

    class Task(PushT):
        def codec(self, num_envs):
            return OneWay()

    with pytest.raises(UserError, match="its codec has no encode_actions"):
        OfflineData(
            OfflineConfig("data"), Task(), PushT(num_envs=1).training_env(0, 0.9), AgentConfig(), "cpu"
        )
