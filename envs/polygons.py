"""Convex polygons of one colour each, painted over each other with several points per pixel."""

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def paint(canvas, corners, colours, matrix, offset):
    """Paint polygons, the last on top; a point is inside or outside, so that neighbours leave no seam.

    Args:
        canvas: (height, width) uint32, 0xBBGGRR, painted on; point (i, j) lies at x = j + 0.5, y = i + 0.5.
        corners: (k, V, 2) x and y, in order around the polygon; one with fewer corners repeats its last.
        colours: (k, 3) red, green, blue.
        matrix, offset: (2, 2) and (2,), from corners to points of the canvas.
    """
    height, width = canvas.shape
    num_corners = corners.shape[1]
    xs, ys = np.empty(num_corners), np.empty(num_corners)
    for k in range(len(corners)):
        for v in range(num_corners):
            x, y = corners[k, v, 0], corners[k, v, 1]
            xs[v] = matrix[0, 0] * x + matrix[0, 1] * y + offset[0]
            ys[v] = matrix[1, 0] * x + matrix[1, 1] * y + offset[1]
        if xs.max() < 0 or xs.min() > width or ys.max() < 0 or ys.min() > height:
            continue
        red, green, blue = np.uint32(colours[k, 0]), np.uint32(colours[k, 1]), np.uint32(colours[k, 2])
        colour = red | green << np.uint32(8) | blue << np.uint32(16)
        for i in range(max(int(np.ceil(ys.min() - 0.5)), 0), min(int(np.ceil(ys.max() - 0.5)), height)):
            left, right = np.inf, -np.inf  # where the line of these points enters and leaves
            for v in range(num_corners):
                x, y, next_x, next_y = xs[v - 1], ys[v - 1], xs[v], ys[v]
                if (y <= i + 0.5) != (next_y <= i + 0.5):
                    crossing = x + (i + 0.5 - y) / (next_y - y) * (next_x - x)
                    left, right = min(left, crossing), max(right, crossing)
            if left <= right:
                start = min(max(int(np.ceil(left - 0.5)), 0), width)
                canvas[i, start : min(max(int(np.ceil(right - 0.5)), start), width)] = colour


@njit(cache=True, nogil=True)
def average(canvas, picture):
    """Write the mean colour of each pixel's points.

    Args:
        canvas: (height * s, width * s) uint32, 0xBBGGRR.
        picture: (height, width, 3) uint8, written.
    """
    samples = canvas.shape[0] // picture.shape[0]
    half = np.uint32(samples * samples // 2)
    for i in range(picture.shape[0]):
        for j in range(picture.shape[1]):
            red = green = blue = half
            for y in range(i * samples, (i + 1) * samples):
                for x in range(j * samples, (j + 1) * samples):
                    point = canvas[y, x]
                    red += point & np.uint32(255)
                    green += point >> np.uint32(8) & np.uint32(255)
                    blue += point >> np.uint32(16)
            picture[i, j, 0] = red // (samples * samples)
            picture[i, j, 1] = green // (samples * samples)
            picture[i, j, 2] = blue // (samples * samples)
