"""Affine maps of the plane, and what they do to boxes.

Source: geometry of YOLOX's random affine (released code): linear part = shear x scaled rotation.
Shapes: matrix (2, 3) float64, maps column vectors (x, y, 1); n boxes XYXY in pixels, float32.
"""

import numpy as np

__all__ = ["clip_boxes", "is_candidate", "linear_part", "map_about", "warp_boxes"]


def linear_part(degrees, scale, shear_x, shear_y):
    """(2, 2): rotation counter-clockwise on the screen times `scale`, then the shears, all angles in degrees."""
    angle = np.deg2rad(degrees)
    rotation = scale * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    shear = np.array([[1, np.tan(np.deg2rad(shear_x))], [np.tan(np.deg2rad(shear_y)), 1]])
    return shear @ rotation


def map_about(linear, source, target):
    """(2, 3): the affine map with this linear part that takes the point `source` to the point `target`, both (x, y)."""
    return np.column_stack([linear, np.asarray(target) - linear @ np.asarray(source)])


def warp_boxes(boxes, matrix):
    """(n, 4): the upright boxes around the mapped boxes."""
    x1, y1, x2, y2 = boxes.T
    corners = np.array([[x1, x2, x1, x2], [y1, y1, y2, y2]])  # (2, 4, n)
    mapped = np.einsum("ij,jkn->ikn", matrix[:, :2], corners) + matrix[:, 2, None, None]
    return np.concatenate([mapped.min(axis=1), mapped.max(axis=1)]).T.astype(np.float32)


def clip_boxes(boxes, size):
    """Cuts boxes to [0, width] x [0, height]. Args: size (height, width)."""
    height, width = size
    return np.clip(boxes, 0, np.array([width, height, width, height], dtype=np.float32))


def is_candidate(before, after, *, min_side, min_area_ratio, max_aspect):
    """(n,) bool: which boxes are still worth learning after a warp and a cut.

    Args:
        before: boxes before the cut, at the scale of `after`; rotation aside.
        after: the same boxes, cut.
        min_side: width and height of `after` must exceed this many pixels.
        min_area_ratio: so must the part of the area that is left.
        max_aspect: the longer side over the shorter must be below this.
    """
    (width, height), (full_width, full_height) = (after[:, 2:] - after[:, :2]).T, (before[:, 2:] - before[:, :2]).T
    is_large = (width > min_side) & (height > min_side)
    is_whole = width * height > min_area_ratio * np.maximum(full_width * full_height, 1e-16)
    return is_large & is_whole & (np.maximum(width, height) < max_aspect * np.minimum(width, height))
