"""Resize that keeps the aspect ratio, to sizes drawn from ranges: OpenCV's bilinear, as mmdetection's models are trained.

Detectron2's ResizeShortestEdge smooths, by Pillow, and rounds otherwise.
"""

import numpy as np
from detectron2.data.transforms import Augmentation

from .letterbox import BilinearResizeTransform

__all__ = ["KeepRatioResize"]


class KeepRatioResize(Augmentation):
    """The largest size whose short edge and whose long edge do not exceed a limit each.

    Args:
        short_edge, long_edge: limits in pixels: a number, or (low, high) to draw a whole number between them, both
            included. The two are drawn independently; if the long limit comes out as the lower one, they change roles.
    """

    def __init__(self, short_edge=800, long_edge=1333):
        super().__init__()
        self.short_edge, self.long_edge = _as_range(short_edge), _as_range(long_edge)

    def get_transform(self, image):
        long_edge, short_edge = (np.random.randint(low, high + 1) for low, high in (self.long_edge, self.short_edge))
        height, width = image.shape[:2]
        return BilinearResizeTransform(height, width, *fit_edges(height, width, short_edge, long_edge))


def _as_range(edge):
    low, high = (edge, edge) if isinstance(edge, int) else edge
    if not 0 < low <= high:
        raise ValueError(f"edge is {edge}; give a number of pixels, or (low, high) with 0 < low <= high")
    return low, high


def fit_edges(height, width, short_edge, long_edge):
    """(height, width) scaled by the greatest factor that both limits allow, sides rounded half up, to at least 1."""
    short_edge, long_edge = sorted((short_edge, long_edge))
    factor = min(long_edge / max(height, width), short_edge / min(height, width))
    return max(1, int(height * factor + 0.5)), max(1, int(width * factor + 0.5))
