"""PushT's control step in machine code: the PD loop around Chipmunk's `cpSpaceStep`, and the goal's coverage.

pymunk is a Python layer over Chipmunk; at ten physics steps per action nearly all of gym-pusht's time goes
into that layer (vectors, properties, callbacks). Here Numba compiles the same arithmetic in the same order,
so that results agree to the last bit, and calls the very `cpSpaceStep` that pymunk has loaded. Positions and
velocities are read where Chipmunk keeps them. `_find_body_layout` finds those places by looking for numbers
it has just set, so nothing is assumed of the struct; the kernels are handed addresses, so nothing of it stays
in Numba's cache either.

Coverage is the area that the T shares with the goal over the goal's area: both are two rectangles, so it is
the sum of four convex intersections (Sutherland & Hodgman 1974); the stock environment asks shapely, which
does any shape.
"""

import math
from typing import NamedTuple

import numpy as np
import pymunk
from llvmlite import ir
from numba import carray, njit, types
from numba.extending import intrinsic
from pymunk import _chipmunk_cffi

_lib, _ffi = _chipmunk_cffi.lib, _chipmunk_cffi.ffi

SPACE_STEP = int(_ffi.cast("uintptr_t", _ffi.addressof(_lib, "cpSpaceStep")))  # the address of the function
_BODY_BYTES = 256  # of a cpBody: enough for the fields we look for, less than the whole

# Columns of the simulator state that the kernels write, one row per environment.
AGENT_POS, AGENT_VEL = slice(0, 2), slice(2, 4)
BLOCK_POS, BLOCK_ANGLE, BLOCK_POSE, BLOCK_ROTATION = slice(4, 6), 6, slice(4, 7), slice(7, 9)
STATE_SIZE = 9


class BodyLayout(NamedTuple):
    """Where a `cpBody` keeps its numbers, in bytes from its beginning."""

    position: int  # world position of the body's origin (x, y)
    velocity: int
    angle: int
    rotation: int  # (cos, sin) of the angle, as Chipmunk computed them


def _find_body_layout() -> BodyLayout:
    body = pymunk.Body(1.0, 1.0)
    body.center_of_gravity = (0.0, 7.25)
    body.angle = 0.728515625
    body.position = (1093.75, -2187.5)
    body.velocity = (4375.25, -8750.5)
    memory = np.frombuffer(_ffi.buffer(_ffi.cast("char *", body._body), _BODY_BYTES), dtype=np.float64)

    def find(*values: float) -> int:
        width = len(values)
        places = [
            i for i in range(len(memory) - width + 1) if np.allclose(memory[i : i + width], values, 1e-15, 0)
        ]
        if len(places) != 1:
            raise RuntimeError(
                f"pymunk {pymunk.version} keeps its bodies in a layout unknown to envs/pusht/physics.py"
            )
        return places[0] * memory.itemsize

    cos, sin = math.cos(body.angle), math.sin(body.angle)
    return BodyLayout(
        position=find(1093.75, -2187.5),
        velocity=find(4375.25, -8750.5),
        angle=find(body.angle),
        rotation=find(cos, sin, -sin, cos),
    )


_LAYOUT = _find_body_layout()


def addresses(space: pymunk.Space, agent: pymunk.Body, block: pymunk.Body) -> np.ndarray:
    """(6,) int64: the space, the agent's position and velocity, the block's position, angle and rotation."""
    c_objects = (space._space, agent._body, block._body)
    space_at, agent_at, block_at = (int(_ffi.cast("uintptr_t", c_object)) for c_object in c_objects)
    return np.array(
        [
            space_at,
            agent_at + _LAYOUT.position,
            agent_at + _LAYOUT.velocity,
            block_at + _LAYOUT.position,
            block_at + _LAYOUT.angle,
            block_at + _LAYOUT.rotation,
        ]
    )


@intrinsic
def _as_pointer(typing_context, address):
    """An integer address as a `void *` for `numba.carray`."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], ir.IntType(8).as_pointer())

    return types.voidptr(types.int64), codegen


@intrinsic
def _space_step(typing_context, function, space, dt):
    """`void cpSpaceStep(cpSpace *space, double dt)` through its address, so that kernels can be cached."""

    def codegen(context, builder, signature, arguments):
        pointer_type = ir.FunctionType(ir.VoidType(), [ir.IntType(64), ir.DoubleType()]).as_pointer()
        builder.call(builder.inttoptr(arguments[0], pointer_type), arguments[1:])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.float64), codegen


@njit(cache=True)
def _pair(address):
    """The two float64 at an address."""
    return carray(_as_pointer(address), (2,), np.float64)


@njit(cache=True)
def _intersection_area(subject, clip):
    """Area shared by two convex polygons, (4, 2) each, `clip` counter-clockwise."""
    polygon = np.empty(
        (32, 2)
    )  # 4 corners, and each of 4 edges can at most, in theory, add half as many again
    clipped = np.empty((32, 2))
    count = len(subject)
    polygon[:count] = subject
    for i in range(len(clip)):
        ax, ay = clip[i - 1]
        edge_x, edge_y = clip[i, 0] - ax, clip[i, 1] - ay
        kept = 0
        for j in range(count):
            px, py = polygon[j - 1] if j else polygon[count - 1]
            qx, qy = polygon[j]
            before = edge_x * (py - ay) - edge_y * (px - ax)  # > 0: on the inner side of the edge
            here = edge_x * (qy - ay) - edge_y * (qx - ax)
            if (before < 0.0) != (here < 0.0):
                t = before / (before - here)
                clipped[kept] = px + t * (qx - px), py + t * (qy - py)
                kept += 1
            if here >= 0.0:
                clipped[kept] = qx, qy
                kept += 1
        polygon, clipped, count = clipped, polygon, kept
        if count == 0:
            return 0.0
    return max(0.0, polygon_area(polygon[:count]))  # rounding may turn a sliver round


@njit(cache=True)
def polygon_area(polygon):
    """Area of a polygon (n, 2), positive when counter-clockwise."""
    twice = 0.0
    x0, y0 = polygon[0]  # coordinates relative to a corner keep the digits
    for i in range(1, len(polygon) - 1):
        ax, ay = polygon[i, 0] - x0, polygon[i, 1] - y0
        bx, by = polygon[i + 1, 0] - x0, polygon[i + 1, 1] - y0
        twice += ax * by - bx * ay
    return 0.5 * twice


@njit(cache=True)
def to_world(rectangles, x, y, cos, sin):
    """A body's rectangles (2, 4, 2) in world coordinates."""
    world = np.empty_like(rectangles)
    for r in range(rectangles.shape[0]):
        for v in range(rectangles.shape[1]):
            vx, vy = rectangles[r, v]
            world[r, v] = cos * vx - sin * vy + x, sin * vx + cos * vy + y
    return world


@njit(cache=True)
def coverage(x, y, cos, sin, tee, goal):
    """Share of the goal that the T covers.

    Args:
        x, y, cos, sin: the block's position in pixels and the rotation of its angle.
        tee: (2, 4, 2) the T's rectangles in its own frame, counter-clockwise.
        goal: (2, 4, 2) the goal's rectangles in the world, counter-clockwise.
    """
    block = to_world(tee, x, y, cos, sin)
    shared, area = 0.0, 0.0
    for g in range(len(goal)):
        area += polygon_area(goal[g])
        for b in range(len(block)):
            shared += _intersection_area(block[b], goal[g])
    return shared / area


@njit(cache=True)
def advance(space_step, addresses, target_x, target_y, gains, substeps, dt):
    """`substeps` of PD control towards the target and physics.

    The agent is a kinematic body, for which `cpBodySetVelocity` is a plain assignment.

    Args:
        space_step: address of `cpSpaceStep`.
        addresses: (6,) see `addresses`.
        target_x, target_y: where the agent is sent, pixels.
        gains: (k_p, k_v) of the PD controller.
        substeps, dt: physics steps and their length in seconds.
    """
    space, position, velocity = addresses[0], _pair(addresses[1]), _pair(addresses[2])
    k_p, k_v = gains
    for _ in range(substeps):
        # The stock environment's order of operations, to the last bit.
        acceleration_x = k_p * (target_x - position[0]) + k_v * (0.0 - velocity[0])
        acceleration_y = k_p * (target_y - position[1]) + k_v * (0.0 - velocity[1])
        velocity[0] += acceleration_x * dt
        velocity[1] += acceleration_y * dt
        _space_step(space_step, space, dt)


@njit(cache=True)
def read_state(addresses, state):
    """Fill `state` (STATE_SIZE,) with positions and velocity, pixels (per second), and the angle, radians."""
    _, agent_pos, agent_vel, block_pos, block_angle, block_rotation = addresses
    state[AGENT_POS] = _pair(agent_pos)
    state[AGENT_VEL] = _pair(agent_vel)
    state[BLOCK_POS] = _pair(block_pos)
    state[BLOCK_ANGLE] = _pair(block_angle)[0]
    state[BLOCK_ROTATION] = _pair(block_rotation)


@njit(cache=True)
def observe(addresses, chosen, tee, goal, states, coverages):
    """Write `states` and `coverages` of the `chosen` (n,) environments as they are, see `control_steps`."""
    for i in range(len(addresses)):
        if chosen[i]:
            read_state(addresses[i], states[i])
            state = states[i]
            coverages[i] = coverage(state[4], state[5], state[7], state[8], tee, goal)


@njit(cache=True)
def keypoints(states, tee):
    """The corners of the T's rectangles in the states (n, STATE_SIZE), (n, 8, 2) pixels."""
    corners = np.empty((len(states), 8, 2))
    for i in range(len(states)):
        world = to_world(tee, states[i, 4], states[i, 5], states[i, 7], states[i, 8])
        corners[i] = world.reshape(8, 2)
    return corners


@njit(cache=True)
def control_step(space_step, addresses, target_x, target_y, gains, substeps, dt, tee, goal, state):
    """One environment step: `advance`, then `state` (STATE_SIZE,) is written and the `coverage` returned."""
    advance(space_step, addresses, target_x, target_y, gains, substeps, dt)
    read_state(addresses, state)
    return coverage(state[4], state[5], state[7], state[8], tee, goal)


@njit(cache=True, nogil=True)
def control_steps(space_step, addresses, targets, active, gains, substeps, dt, tee, goal, states, coverages):
    """`control_step` for many environments; those not `active` stay as they are.

    Args:
        addresses: (n, 6) see `addresses`.
        targets: (n, 2) float64 pixels.
        active: (n,) bool.
        states, coverages: (n, STATE_SIZE) and (n,) float64, written where active.
    """
    for i in range(len(addresses)):
        if active[i]:
            x, y = targets[i]
            coverages[i] = control_step(
                space_step, addresses[i], x, y, gains, substeps, dt, tee, goal, states[i]
            )
