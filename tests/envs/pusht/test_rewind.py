"""Simulators that are rewound between episodes, against new ones for each: not one bit of difference."""

import resource
import sys

import numpy as np
import pymunk
import pytest

from envs.pusht.rewind import Rewind
from envs.pusht.simulator import PushTEnv
from envs.pusht.vector import PushTVectorEnv


def everything(env: PushTEnv) -> list[float]:
    """What the simulator's next steps depend on, and the coverage."""
    agent, block = env.agent, env.block
    moving = [number for body in (agent, block) for number in (*body.position, *body.velocity, body.angle)]
    return [*moving, block.angular_velocity, *block.force, block.torque, env._get_coverage()]


def push(env: PushTEnv, rng: np.random.Generator) -> np.ndarray:
    """A target around the block's middle, so that the agent is at the block most of the time."""
    return np.clip(env.block.local_to_world((0, 45)) + rng.normal(0, 50, 2), 0, 512)


def touching(env: PushTEnv) -> bool:
    contacts = []
    env.block.each_arbiter(lambda arbiter: contacts.append(arbiter.total_impulse.length))
    return bool(contacts)


def assert_same_episode(used: PushTEnv, new: PushTEnv, rng: np.random.Generator, length: int) -> None:
    assert everything(used) == everything(new)
    for _ in range(length):
        action = push(new, rng)
        used.step(action)
        new.step(action)
        assert everything(used) == everything(new)


@pytest.mark.parametrize(
    "options", [{}, {"damping": 0.9, "block_cog": (3.0, 70.0)}, {"count_contacts": True}]
)
def test_rewound_episodes_equal_those_of_a_new_simulator(options):
    used, rng = PushTEnv(**options), np.random.default_rng(0)
    used.reset(seed=0)
    space, ended_in_contact = used.space, 0
    for seed in range(60):
        new = PushTEnv(**options)
        if seed % 3:
            for env in (used, new):
                env.reset(seed=seed)
        else:
            state = [
                *rng.uniform(50, 450, 2),
                *rng.uniform([100, 100, -7], [400, 400, 7]),
                *rng.normal(0, 100, 2),
            ]
            for env in (used, new):
                env.set_state(state)
        assert_same_episode(used, new, rng, length=int(rng.integers(1, 40)))
        ended_in_contact += touching(used)
    assert used.space is space
    assert ended_in_contact > 15


def test_slots_of_a_vector_environment_equal_new_ones():
    slots = 6
    env, rng = PushTVectorEnv(slots), np.random.default_rng(0)
    env.reset(seed=list(range(slots)))
    singles = [PushTVectorEnv(1) for _ in range(slots)]
    for i, single in enumerate(singles):
        single.reset(seed=[i])
    for round_ in range(1, 150):
        targets = np.array([push(single.envs[0], rng) for single in singles])
        raw, _, _, _, infos = env.step(targets)
        for i, single in enumerate(singles):
            alone, _, _, _, alone_infos = single.step(targets[i : i + 1])
            for seen, expected in ((raw, alone), (infos, alone_infos)):
                for name in expected:
                    np.testing.assert_array_equal(seen[name][i], expected[name][0], err_msg=name)
        mask = ~env.active | (rng.random(slots) < 0.1)
        states = np.full((slots, 5), np.nan)
        states[0] = [*rng.uniform(50, 450, 2), *rng.uniform([100, 100, -7], [400, 400, 7])]
        seeds = [1000 * round_ + i for i in range(slots)]
        env.reset(seed=seeds, options={"reset_mask": mask, "states": states})
        for i in np.flatnonzero(mask):
            singles[i] = PushTVectorEnv(1)
            singles[i].reset(seed=seeds[i : i + 1], options={"states": states[i : i + 1]})


def heavy(env: PushTEnv) -> None:
    env.block.mass, env.block.moment = 9.0, 700.0


def ghostly(env: PushTEnv) -> None:
    for shape in env._block_shapes:
        shape.sensor = True  # nothing bounces off it


def pulled(env: PushTEnv) -> None:
    env.block.apply_force_at_local_point((3e4, 1e4), (0, 60))
    env.block.velocity_func = lambda body, gravity, damping, dt: None


def downhill(env: PushTEnv) -> None:
    env.space.gravity = 0, 400


def rough(env: PushTEnv) -> None:
    env.space.iterations, env.space.collision_slop = 1, 3.0


def crowded(env: PushTEnv) -> None:
    body = pymunk.Body(1.0, 100.0)
    body.position = 256, 256
    env.space.add(body, pymunk.Circle(body, 30))


def empty(env: PushTEnv) -> None:
    env.space.remove(*env.block.shapes, env.block)


def tied(env: PushTEnv) -> None:
    env.space.add(pymunk.PinJoint(env.block, env.space.static_body, (0, 0), (256, 256)))


def handled(env: PushTEnv) -> None:
    env.space.add_wildcard_collision_handler(0).begin = lambda arbiter, space, data: False


@pytest.mark.parametrize(
    "change",
    [heavy, ghostly, pulled, downhill, rough, crowded, empty, tied, handled],
    ids=lambda f: f.__name__,
)
def test_what_is_done_to_a_simulator_ends_with_its_episode(change):
    """As with gym-pusht, which builds a new one each time."""
    used, rng = PushTEnv(), np.random.default_rng(0)
    used.reset(seed=1)
    change(used)
    if change is not empty:
        for _ in range(10):
            used.step(push(used, rng))
    new = PushTEnv()
    for env in (used, new):
        env.reset(seed=2)
    assert_same_episode(used, new, rng, length=60)


def test_any_space_is_as_it_was():
    """Here two discs and a stick in a box, and their order is not that of PushT's bodies."""

    def build() -> tuple[pymunk.Space, list]:
        space = pymunk.Space()
        space.gravity, parts = (30, 900), []
        corners = [(0, 0), (200, 0), (200, 200), (0, 200)]
        space.add(*(pymunk.Segment(space.static_body, corners[i - 1], corners[i], 3) for i in range(4)))
        for x in (60, 100, 140):
            body = pymunk.Body(1.0, 200.0)
            body.position, body.velocity, body.angular_velocity = (x, 60), (3 * x - 300, 0), 2.0
            shapes = [pymunk.Circle(body, 15)] if x != 100 else [pymunk.Segment(body, (-40, 9), (40, 0), 5)]
            for shape in shapes:
                shape.friction, shape.elasticity = 0.6, 0.5
            space.add(body, *shapes)
            parts.append((body, shapes))
        return space, parts

    def play(space: pymunk.Space, parts: list, steps: int) -> list:
        seen = []
        for _ in range(steps):
            space.step(0.01)
            seen.append([(*b.position, b.angle, *b.velocity, b.angular_velocity) for b, _ in parts])
        return seen

    expected = play(*build(), steps=400)
    space, parts = build()
    rewind = Rewind(space, parts)
    for steps in (400, 3, 77, 400):
        assert rewind.possible()
        assert play(space, parts, steps) == expected[:steps]
        rewind()
        assert space.current_time_step == 0


def test_rewinding_takes_no_memory():
    """Chipmunk's buffers of contacts, 32 kB each, are used again."""
    env = PushTEnv()
    env.reset(seed=0)

    def peak() -> float:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit  # MB

    before = peak()
    for _ in range(20_000):
        env.set_state([100.0, 100.0, 300.0, 300.0, 1.0])
    assert peak() < before + 100
