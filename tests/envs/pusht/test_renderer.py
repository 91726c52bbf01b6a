"""Every frame is compared with the stock environment's own `_render`, pixel by pixel."""

import math

import numpy as np
import pytest
from gym_pusht.envs import PushTEnv

from envs.pusht.renderer import Renderer, contact_lines

SIZES = [(680, 680), (224, 224), (128, 96), (96, 128), (256, 256), (512, 512), (97, 101)]  # width, height


@pytest.fixture
def env() -> PushTEnv:
    env = PushTEnv()
    env.reset(seed=0)
    return env


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(96, 96)


def stock_frame(env: PushTEnv, width: int, height: int, video: bool = False) -> np.ndarray:
    env.observation_width = env.visualization_width = width
    env.observation_height = env.visualization_height = height
    return env._render(visualize=video)


def our_frame(env: PushTEnv, renderer: Renderer, video: bool = False) -> np.ndarray:
    block_pose = (*env.block.position, env.block.angle)
    last_action = env._last_action if video else None
    return renderer.draw(env.agent.position, block_pose, contact_lines(env.space), last_action)


def assert_same_frame(env: PushTEnv, renderer: Renderer, video: bool = False) -> None:
    stock, ours = stock_frame(env, renderer.width, renderer.height, video), our_frame(env, renderer, video)
    assert ours.dtype == stock.dtype and ours.shape == stock.shape
    differing = np.argwhere((ours != stock).any(axis=-1))
    state = (env.agent.position, env.block.position, env.block.angle)
    assert len(differing) == 0, (
        f"{len(differing)} pixels differ, first (row, column) {differing[0]}, in {state}"
    )


def place(env: PushTEnv, agent_x: float, agent_y: float, x: float, y: float, angle: float) -> None:
    env.agent.position = agent_x, agent_y
    env.block.angle = angle
    env.block.position = x, y
    env.space.reindex_shapes_for_body(env.agent)
    env.space.reindex_shapes_for_body(env.block)


def push(env: PushTEnv, rng: np.random.Generator) -> None:
    env.step(np.clip(np.array(env.block.position) + rng.normal(0, 50, size=2), 0, 512))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_play(env, renderer, seed):
    rng = np.random.default_rng(seed)
    env.reset(seed=seed)
    assert_same_frame(env, renderer)
    frames_with_contacts = 0
    for _ in range(100):
        push(env, rng)
        assert_same_frame(env, renderer)
        frames_with_contacts += bool(contact_lines(env.space))
    assert frames_with_contacts > 20  # or the test would miss the red lines


def test_starts(env, renderer):
    """In some starts a part of the T is outside the walls, or of the board."""
    for seed in range(60):
        env.reset(seed=seed)
        assert_same_frame(env, renderer)


POSES = {  # agent x, y and block x, y in board pixels, angle in radians
    "anywhere": lambda rng: [*rng.uniform(0, 512, 4), rng.uniform(-7, 7)],
    "near the goal": lambda rng: [*rng.uniform(0, 512, 2), *rng.normal(256, 4, 2), rng.normal(0.785, 0.05)],
    "agent over block": lambda rng: [*rng.uniform(200, 300, 4), rng.uniform(-7, 7)],
    "across the walls": lambda rng: [
        *rng.choice([3, 256, 508], 2),
        *rng.choice([5, 60, 506], 2),
        rng.normal(),
    ],
    "beyond the board": lambda rng: [*rng.uniform(-40, 552, 4), rng.uniform(-7, 7)],
    "corners at half pixels": lambda rng: [*rng.integers(0, 1024, 4) / 2, rng.integers(8) * math.pi / 2],
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", POSES)
def test_poses(env, renderer, kind):
    rng = np.random.default_rng(0)
    for _ in range(80):
        place(env, *POSES[kind](rng))
        assert_same_frame(env, renderer)


def test_contacts_of_an_earlier_pose_are_drawn_as_well(env, renderer):
    """Without a physics step Chipmunk keeps its contacts, and draws them from body to body."""
    rng = np.random.default_rng(0)
    while not contact_lines(env.space):
        push(env, rng)
    for _ in range(30):
        place(env, *POSES["beyond the board"](rng))
        assert_same_frame(env, renderer)


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def test_sizes_and_action_marker(env, size):
    rng = np.random.default_rng(0)
    renderer = Renderer(*size)
    assert_same_frame(env, renderer, video=True)  # no action to mark yet
    for _ in range(12):
        push(env, rng)
        assert_same_frame(env, renderer, video=True)
        assert_same_frame(env, renderer)
        place(env, *POSES["anywhere"](rng))
        assert_same_frame(env, renderer, video=True)


@pytest.mark.parametrize("size", [(84, 84), (64, 64)], ids=lambda size: f"{size[0]}x{size[1]}")
def test_sizes_below_the_stock_markers(env, size):
    """The stock marker is an error below 96 pixels; ours is not."""
    renderer = Renderer(*size)
    for seed in range(10):
        env.reset(seed=seed)
        assert_same_frame(env, renderer)
    marked = renderer.draw(env.agent.position, (256, 256, 0), last_action=(100, 400))
    assert (marked == (255, 0, 0)).all(axis=-1).any()


def test_another_goal(env):
    env.goal_pose = np.array([200.0, 300.0, -1.0])
    assert_same_frame(env, Renderer(96, 96, goal_pose=(200, 300, -1)))


def test_renderers_share_nothing_and_frames_belong_to_the_caller():
    states = [((100, 100), (300, 300, 1.0)), ((400, 256), (200, 150, -2.0)), ((256, 256), (256, 256, 0.0))]
    sizes = [(96, 96), (96, 96), (160, 120)]
    expected = [[Renderer(*size).draw(*state) for state in states] for size in sizes]

    renderers = [Renderer(*size) for size in sizes]
    frames = [[renderer.draw(*state) for renderer in renderers] for state in states]
    for i in range(len(states)):
        for j in range(len(sizes)):
            np.testing.assert_array_equal(frames[i][j], expected[j][i])

    frames[0][0][:] = 0
    np.testing.assert_array_equal(frames[1][0], expected[0][1])
    np.testing.assert_array_equal(renderers[0].draw(*states[0]), expected[0][0])
