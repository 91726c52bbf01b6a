"""A steered policy that is made its own mirror image, beside the mirrored board."""

import numpy as np
import pytest

from common.errors import UserError
from envs.pendulum import TASK as Pendulum
from envs.pusht.symmetry import mirror_points
from envs.pusht.task import PushT
from envs.steering import Steering, SteeringConfig, SteeringEnv
from envs.symmetric import SymmetricChunks
from tests.envs.wanderer import SHAPE, Wanderer

NOISE = [{"noise": "full"}, {"noise": "executed"}, {"rank": 3}, {"noise": "repeated"}]
STATES = np.array([[100.0, 300.0, 200.0, 250.0, 0.3], [400.0, 150.0, 330.0, 300.0, -1.0]])


class OneHanded(Wanderer):
    """Prefers the right, and looks at one corner of the T."""

    sees = ("agent_pos", "keypoints")

    def chunk(self, observations, noise):
        ahead = np.stack(
            [observations["keypoints"].reshape(len(noise), -1)[:, 2], 0 * noise[:, 0, 0]], axis=1
        )
        return super().chunk(observations, noise) + 0.1 * ahead[:, None]


def mirrored_states(states: np.ndarray) -> np.ndarray:
    """Agent and T (n, 5) across the diagonal x + y = 512, by hand."""
    agent_x, agent_y, x, y, angle = states.T
    return np.stack([512 - agent_y, 512 - agent_x, 512 - y, 512 - x, np.pi / 2 - angle], axis=1)


def board(states: np.ndarray, settings: dict, policy: Wanderer | None = None) -> SteeringEnv:
    """A training that begins in these states."""
    task = PushT(num_envs=len(states), curriculum=1.0)
    env = task.training_env(0, gamma=0.9)
    starts = iter(states)
    env.start = lambda rng: next(starts)
    config = SteeringConfig(symmetric=True, **settings)
    return SteeringEnv(env, Steering(policy or OneHanded(), config, task))


@pytest.mark.parametrize("settings", NOISE, ids=str)
def test_a_mirrored_decision_leads_to_the_mirror_image(settings):
    env, image = board(STATES, settings), board(mirrored_states(STATES), settings)
    seen, seen_there, rng = env.reset(), image.reset(), np.random.default_rng(0)
    order, signs, action_order, action_signs = env.symmetry
    for _ in range(3):
        np.testing.assert_allclose(seen_there, seen[:, order] * signs, atol=1e-3)
        actions = rng.uniform(-1, 1, (2, env.action_size)).astype(np.float32)
        step, there = env.step(actions), image.step(actions[:, action_order] * action_signs)
        np.testing.assert_allclose(there.rewards, step.rewards, atol=1e-4)
        seen, seen_there = step.observations, there.observations
    moved = env.env.raw["agent_pos"] - STATES[:, :2]
    assert np.abs(moved).min() > 1.0
    alone, there = (OneHanded().chunk(each.env.raw, np.zeros((2, *SHAPE))) for each in (env, image))
    difference = mirror_points("agent_pos", alone, drawn=False) - there
    assert np.abs(difference).max() > 5.0, "by itself the policy is not its own mirror image"


def test_a_latent_stays_as_it_is():
    policy, shown = OneHanded(), []
    policy.noise_shape = (3,)

    def chunk(observations, noise):
        shown.append(noise.copy())
        return np.zeros((len(noise), 6, 2))

    policy.chunk = chunk
    env = board(STATES, {"noise": "full"}, policy)
    env.reset()
    env.step(actions := np.random.default_rng(0).uniform(-1, 1, (2, 3)))
    np.testing.assert_allclose(shown[0], 2.0 * actions)
    assert [*env.symmetry.action_order, *env.symmetry.action_signs] == [0, 1, 2, 1, 1, 1]


@pytest.mark.parametrize("history", [1, 2])
def test_pictures_are_flipped_with_what_else_it_sees(history):
    """Which of the two it sees depends on neither their order nor on the picture."""
    policy, shown, task = OneHanded(), [], PushT()
    policy.image_size, policy.history, policy.sees = 96, history, ("agent_pos", "pixels")

    def chunk(observations, noise):
        shown.append(observations)
        return np.broadcast_to(
            observations["agent_pos"].reshape(len(noise), -1, 2)[:, -1:], (len(noise), 6, 2)
        )

    policy.chunk = chunk
    env = task.vector_env(2, 96)
    here, _ = env.reset(seed=[0, 0], options={"states": STATES})
    there, _ = env.reset(seed=[0, 0], options={"states": mirrored_states(STATES)})
    if history > 1:
        here, there = ({name: np.stack([x, x], axis=1) for name, x in raw.items()} for raw in (here, there))
    chunks = SymmetricChunks(policy, task)
    first, second = chunks(here, np.zeros((2, *SHAPE))), chunks(there, np.zeros((2, *SHAPE)))
    chunks(here | {"keypoints": -here["keypoints"]}, np.zeros((2, *SHAPE)))
    np.testing.assert_allclose(second, mirror_points("agent_pos", first, drawn=False), atol=1e-9)
    ours, theirs, again = shown
    assert all(np.array_equal(ours[name], again[name]) for name in policy.sees), (
        "it does not see the T's state"
    )
    np.testing.assert_allclose(ours["agent_pos"], theirs["agent_pos"], atol=1.0 + 1e-6)
    difference = np.abs(ours["pixels"].astype(int) - theirs["pixels"])
    assert (difference > 40).mean() < 0.01, "but for edges, which are drawn half a pixel apart"
    assert (np.abs(here["pixels"].astype(int) - there["pixels"]) > 40).mean() > 0.03


def test_what_pictures_lead_to_stays_on_the_board():
    """Their mirror exchanges 0 with 511, so 512 would become -1."""
    policy, task = Wanderer(), PushT()
    policy.image_size, policy.sees = 96, ("agent_pos", "pixels")
    policy.chunk = lambda observations, noise: np.full((len(noise), 6, 2), 512.0)
    raw, _ = task.vector_env(2, 96).reset(seed=[0, 0], options={"states": STATES})
    chunks = SymmetricChunks(policy, task)(raw, np.zeros((2, *SHAPE)))
    assert chunks[0].min() == chunks[0].max() == 0.0 and chunks[1].min() == 512.0


def test_what_cannot_be_mirrored_is_refused():
    with pytest.raises(UserError, match="must be false: Pendulum-v1 cannot mirror what policies see"):
        Steering(Wanderer(), SteeringConfig(symmetric=True), Pendulum())
    policy = Wanderer()
    policy.image_size, policy.sees = 96, ("pixels",)
    with pytest.raises(UserError, match="must be false: steering.policy sees nothing but pictures"):
        Steering(policy, SteeringConfig(symmetric=True), PushT())


def test_directions_whose_mirror_images_are_none_of_them_are_refused():
    env, turn = board(STATES, {"noise": "full"}), np.deg2rad(20)
    turned = env.steering.directions @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    with pytest.raises(UserError, match="env.mirror must be false: the task's mirror mixes the numbers"):
        env.steering.symmetric.symmetry(env.env.symmetry, turned)
