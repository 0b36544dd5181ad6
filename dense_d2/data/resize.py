"""Resize to a square, whatever the aspect ratio.

Source: YOLOF's CSPDarkNet recipe: 640 with a jitter of 0.8 to 1.2 in training, 608 without in testing; PIL
bilinear.
"""

import numpy as np
from detectron2.data.transforms import Augmentation, ResizeTransform

__all__ = ["SquareResize"]


class SquareResize(Augmentation):
    """Resizes to int(size * j) on both sides, j drawn once from U(jitter).

    Args:
        size: pixels.
        jitter: (low, high); (1, 1) is a fixed size and draws nothing.
    """

    def __init__(self, size=640, jitter=(1.0, 1.0)):
        super().__init__()
        self.size, self.jitter = size, tuple(jitter)

    def get_transform(self, image):
        low, high = self.jitter
        side = self.size if low == high == 1 else int(self.size * np.random.uniform(low, high))
        return ResizeTransform(image.shape[0], image.shape[1], side, side)
