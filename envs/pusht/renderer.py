"""PushT's picture, pixel for pixel the one that gym_pusht draws, and many times as fast.

For every frame gym_pusht paints a new 512x512 board with pygame, called back by the physics engine, and has
OpenCV resize all of it. Here goal and walls are painted once, by gym_pusht. A frame then costs two filled
rectangles, and eight edges and a disc stamped from pictures that gym_pusht's own functions made before; and
only the pixels of the frame that see a change are interpolated, in OpenCV's fixed-point arithmetic.

The poses alone do not make a stock frame: with a short red line Chipmunk also marks every point where bodies
touched in the last physics step. A policy that looks at pixels sees them: `contact_lines` reads them.
"""

import math
from collections.abc import Sequence
from functools import cache

import cv2
import numpy as np
import pygame
import pymunk
from gym_pusht.envs import PushTEnv
from gym_pusht.envs.pymunk_override import DrawOptions, light_color
from numba import njit
from pymunk import Vec2d
from pymunk.space_debug_draw_options import SpaceDebugColor, SpaceDebugDrawOptions

from envs.pusht.observations import BOARD_PX

BOARD = pygame.Rect(0, 0, BOARD_PX, BOARD_PX)
OUTLINE_RADIUS = 2  # of the block's edges, as in gym_pusht's `DrawOptions.draw_polygon`
MARGIN = 5  # pixels around the points that a stamp joins; more than an outline needs
WEIGHT_ONE = 2**11  # OpenCV's fixed-point 1 for the weights of a bilinear resize

Point = tuple[int, int]
Line = tuple[float, float, float, float]  # from x, y to x, y


class Renderer:
    """Draw frames of one size, each from the arguments of `draw` alone.

    One renderer serves any number of environments of one thread.

    Args:
        width, height: of the frames, in pixels.
        goal_pose: (3,) x, y in board pixels and angle in radians; None for gym_pusht's own.

    Attributes:
        background: (height, width, 3) uint8 RGB, the board with neither block nor agent.
    """

    def __init__(self, width: int = 96, height: int = 96, goal_pose: Sequence[float] | None = None) -> None:
        self.width, self.height = width, height
        env = PushTEnv()
        env.reset(seed=0)
        if goal_pose is not None:
            env.goal_pose = np.asarray(goal_pose, dtype=np.float64)

        (disc,) = env.agent.shapes
        assert isinstance(disc, pymunk.Circle)
        self._rectangles = [[tuple(vertex) for vertex in shape.get_vertices()] for shape in env._block_shapes]
        self._outline_color = SpaceDebugColor(*env._block_shapes[0].color)
        self._fill_color = light_color(self._outline_color).as_int()
        self._contact_color = SpaceDebugDrawOptions().collision_point_color.as_int()
        self._agent = _agent_stamp(disc)

        env.space.remove(env.agent, disc, env.block, *env.block.shapes)
        self._walls = _blank_stamp(BOARD.size)
        env.space.debug_draw(DrawOptions(self._walls))

        # The board as numbers, red in the lowest byte, and the same memory as a surface of pygame.
        # Between two frames it shows the background.
        self._board = np.empty(BOARD.size, dtype=np.uint32)
        self._surface = pygame.image.frombuffer(self._board.data, BOARD.size, "RGBX")
        self._surface.blit(env._draw(), (0, 0))
        self._background = self._board.copy()

        self._columns = _neighbours(width, BOARD.width)
        self._rows = _neighbours(height, BOARD.height)
        self.background = np.empty((height, width, 3), dtype=np.uint8)
        self._interpolate(self.background, BOARD)

    def draw(
        self,
        agent_pos: Sequence[float],
        block_pose: Sequence[float],
        contacts: Sequence[Line] = (),
        last_action: Sequence[float] | None = None,
    ) -> np.ndarray:
        """Draw one state.

        Args:
            agent_pos: (2,) x, y in board pixels.
            block_pose: (3,) x, y in board pixels, angle in radians; in float64, as corners get rounded.
            contacts: from `contact_lines`; without them the frame is that of bodies which do not touch.
            last_action: (2,) target to mark with a red cross, as in videos; None in observations.

        Returns:
            (height, width, 3) uint8 RGB, owned by the caller.
        """
        # Chipmunk's order: the moving shapes (by their hash: block, agent), the walls, the contacts.
        block_area = self._draw_block(*map(float, block_pose))
        agent_area = self._draw_agent(*map(float, agent_pos))
        self._surface.blit(self._walls, block_area, block_area)
        self._surface.blit(self._walls, agent_area, agent_area)
        block_area = block_area.unionall([self._draw_contact(line) for line in contacts]).clip(BOARD)

        frame = self.background.copy()
        for area in (block_area, agent_area):
            self._interpolate(frame, area)
        for area in (block_area, agent_area):
            window = slice(area.top, area.bottom), slice(area.left, area.right)
            self._board[window] = self._background[window]
        if last_action is not None:
            self._mark_action(frame, last_action)
        return frame

    def _draw_block(self, x: float, y: float, angle: float) -> pygame.Rect:
        cos, sin = math.cos(angle), math.sin(angle)
        # Chipmunk's order of operations: a corner at .5 must fall to the same side.
        rectangles = [
            [(round(cos * u - sin * v + x), round(sin * u + cos * v + y)) for u, v in rectangle]
            for rectangle in self._rectangles
        ]
        xs, ys = zip(*rectangles[0], *rectangles[1], strict=True)
        left, top = min(xs) - MARGIN, min(ys) - MARGIN
        area = pygame.Rect(left, top, max(xs) + MARGIN - left, max(ys) + MARGIN - top)
        for corners in rectangles:
            pygame.draw.polygon(self._surface, self._fill_color, corners)
            for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
                self._draw_edge(start, end)
        return area.clip(BOARD)

    def _draw_edge(self, start: Point, end: Point) -> None:
        if BOARD.collidepoint(start) and BOARD.collidepoint(end):
            (x1, y1), (x2, y2) = start, end
            stamp = _edge_stamp(x2 - x1, y2 - y1, self._outline_color)
            self._surface.blit(stamp, (min(x1, x2) - MARGIN, min(y1, y2) - MARGIN))
        else:  # pygame cuts a line that leaves the board in its own way
            _draw_outline(self._surface, start, end, self._outline_color)

    def _draw_agent(self, x: float, y: float) -> pygame.Rect:
        center = self._agent.get_width() // 2
        return self._surface.blit(self._agent, (round(x) - center, round(y) - center))

    def _draw_contact(self, line: Line) -> pygame.Rect:
        x1, y1, x2, y2 = (round(value) for value in line)
        return pygame.draw.aalines(self._surface, self._contact_color, False, ((x1, y1), (x2, y2)))

    def _interpolate(self, frame: np.ndarray, area: pygame.Rect) -> None:
        bounds = area.left, area.top, area.right, area.bottom
        _interpolate(self._board, frame, *bounds, self._columns, self._rows)

    def _mark_action(self, frame: np.ndarray, action: Sequence[float]) -> None:
        size = min(self.width, self.height)
        # gym_pusht scales x by the height and y by the width.
        x, y = (np.array(action) / BOARD_PX * [self.height, self.width]).astype(int).tolist()
        cv2.drawMarker(
            frame,
            (x, y),
            color=(255, 0, 0),
            markerType=cv2.MARKER_CROSS,
            markerSize=int(8 / 96 * size),
            thickness=max(1, int(1 / 96 * size)),  # gym_pusht's is 0, an error, below 96 pixels
        )


class _ContactReader(SpaceDebugDrawOptions):
    """Take down the lines that Chipmunk's debug drawing makes of its contacts."""

    def __init__(self) -> None:
        super().__init__()
        self.flags = SpaceDebugDrawOptions.DRAW_COLLISION_POINTS
        self.lines: list[Line] = []

    def draw_segment(self, a: Vec2d, b: Vec2d, color: SpaceDebugColor) -> None:
        self.lines.append((a.x, a.y, b.x, b.y))


def contact_lines(space: pymunk.Space) -> list[Line]:
    """The lines, in board pixels, that gym_pusht draws where bodies of `space` touched in its last step."""
    reader = _ContactReader()
    space.debug_draw(reader)
    return reader.lines


def _blank_stamp(size: tuple[int, int]) -> pygame.Surface:
    """A transparent picture in the board's format, run-length encoded: blitting skips what is empty."""
    stamp = pygame.Surface(size, depth=32, masks=(0xFF, 0xFF00, 0xFF0000, 0))
    stamp.set_colorkey((0, 0, 0), pygame.RLEACCEL)
    return stamp


def _agent_stamp(disc: pymunk.Circle) -> pygame.Surface:
    center = round(disc.radius) + MARGIN
    color = SpaceDebugColor(*disc.color)
    stamp = _blank_stamp((2 * center, 2 * center))
    DrawOptions(stamp).draw_circle(Vec2d(center, center), 0.0, disc.radius, color, color)
    return stamp


@cache
def _edge_stamp(dx: int, dy: int, color: SpaceDebugColor) -> pygame.Surface:
    """An edge of the block between whole pixels. In all its angles the T has about 3,500, of some kB each."""
    stamp = _blank_stamp((abs(dx) + 2 * MARGIN, abs(dy) + 2 * MARGIN))
    start = max(0, -dx) + MARGIN, max(0, -dy) + MARGIN
    end = start[0] + dx, start[1] + dy
    _draw_outline(stamp, start, end, color)
    return stamp


def _draw_outline(surface: pygame.Surface, start: Point, end: Point, color: SpaceDebugColor) -> None:
    DrawOptions(surface).draw_fat_segment(start, end, OUTLINE_RADIUS, color, color)


def _neighbours(length: int, source_length: int) -> np.ndarray:
    """Where OpenCV's bilinear resize to `length` pixels takes each pixel of a line from.

    Returns:
        (4, length) uint32: the source pixels before and after it, and their fixed-point weights.
    """
    scale = 1.0 / (length / source_length)
    centers = ((np.arange(length) + 0.5) * scale - 0.5).astype(np.float32)
    before = np.floor(centers)
    share = centers - before
    pixels = np.clip([before, before + 1], 0, source_length - 1)
    weights = np.rint([(1 - share) * WEIGHT_ONE, share * WEIGHT_ONE])
    return np.concatenate([pixels, weights]).astype(np.uint32)


@njit(cache=True)
def _interpolate(board, frame, left, top, right, bottom, columns, rows):
    """Resize the board from (left, top) to before (right, bottom) into the pixels of the frame that see it.

    Args:
        board: (H, W) uint32, red in the lowest byte.
        frame: (h, w, 3) uint8, written.
        columns, rows: `_neighbours` of the frame's columns and rows.
    """
    first_column, end_column = np.searchsorted(columns[1], left), np.searchsorted(columns[0], right)
    for i in range(np.searchsorted(rows[1], top), np.searchsorted(rows[0], bottom)):
        north, south, upper, lower = rows[0, i], rows[1, i], rows[2, i], rows[3, i]
        for j in range(first_column, end_column):
            west, east, a, b = columns[0, j], columns[1, j], columns[2, j], columns[3, j]
            nw, ne, sw, se = board[north, west], board[north, east], board[south, west], board[south, east]
            flat = nw == ne and nw == sw and nw == se
            for c in range(3):
                bits = 8 * c
                if flat:
                    frame[i, j, c] = nw >> bits
                else:  # OpenCV's steps, with the bits that it drops between them
                    over = (a * (nw >> bits & 255) + b * (ne >> bits & 255)) >> 4
                    under = (a * (sw >> bits & 255) + b * (se >> bits & 255)) >> 4
                    frame[i, j, c] = ((over * upper >> 16) + (under * lower >> 16) + 2) >> 2
