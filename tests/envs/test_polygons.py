"""Painted polygons: against every point asked on its own."""

import numpy as np
import pytest

from envs.polygons import average, paint


def convex(rng: np.random.Generator, corners: int) -> np.ndarray:
    """Corners on an ellipse somewhere near a canvas of 24 points, in either direction around it."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))[:: rng.choice([-1, 1])]
    axes, centre = rng.uniform(2, 20, 2), rng.uniform(-8, 32, 2)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * axes + centre


def inside(points: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Whether points (..., 2) lie on one side of all edges of a convex polygon."""
    edges = np.roll(corners, -1, axis=0) - corners
    to = points[..., None, :] - corners
    sides = edges[:, 0] * to[..., 1] - edges[:, 1] * to[..., 0]
    return (sides >= 0).all(axis=-1) | (sides <= 0).all(axis=-1)


@pytest.mark.parametrize("seed", range(20))
def test_a_point_has_the_colour_of_the_last_polygon_around_it(seed):
    rng = np.random.default_rng(seed)
    colours = rng.integers(0, 256, (5, 3))
    polygons = [convex(rng, corners) for corners in (3, 4, 5, 8, 4)]
    height, width = 24, 17
    canvas = np.full((height, width), 7, np.uint32)
    padded = np.array([[*polygon, *[polygon[-1]] * (8 - len(polygon))] for polygon in polygons])
    angle = rng.uniform(0, 6)
    matrix = rng.uniform(0.5, 1.5) * np.array(
        [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    )
    offset = rng.uniform(-10, 30, 2)
    paint(canvas, padded, colours.astype(float), matrix, offset)

    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    expected = np.full((height, width), 7)
    for polygon, (red, green, blue) in zip(polygons, colours, strict=True):
        covered = inside(np.stack([x, y], axis=-1), polygon @ matrix.T + offset)
        expected[covered] = red + 256 * green + 256**2 * blue
    np.testing.assert_array_equal(canvas, expected)


def test_neighbours_leave_no_seam_and_do_not_overlap():
    """Of two that share an edge, each point belongs to one."""
    for slope in np.linspace(-3, 3, 25):
        left = [(0, 0), (6 + slope, 0), (6 - slope, 12), (0, 12)]
        right = [(6 + slope, 0), (12, 0), (12, 12), (6 - slope, 12)]
        counts = []
        for order in ([left, right], [right, left]):
            canvas = np.zeros((12, 12), np.uint32)
            paint(canvas, np.array(order, float), np.array([[1, 0, 0], [2, 0, 0.0]]), np.eye(2), np.zeros(2))
            assert canvas.all()
            counts.append((canvas == 1).sum())
        assert sum(counts) == 144


@pytest.mark.parametrize("points", [1, 2, 3, 6])
def test_a_pixel_is_the_mean_of_its_points(points):
    rng = np.random.default_rng(points)
    colours = rng.integers(0, 256, (5 * points, 4 * points, 3))
    colours[:points] = 255
    picture = np.empty((5, 4, 3), np.uint8)
    average((colours @ [1, 256, 256**2]).astype(np.uint32), picture)
    means = colours.reshape(5, points, 4, points, 3).mean(axis=(1, 3))
    np.testing.assert_array_equal(picture, np.floor(means + 0.5))
