"""Random shift of the whole image by a few pixels.

Source: YOLOF, section 4.1 ("random shift"); released code: the last geometric step, after resizing and flipping.
Shapes: image (H, W) or (H, W, C); boxes XYXY in pixels of the image.
"""

import numpy as np
from detectron2.data.transforms import Augmentation, NoOpTransform, Transform

__all__ = ["RandomShift", "ShiftTransform"]


class ShiftTransform(Transform):
    """Moves the content by (dx, dy) pixels on a canvas of the same size; what is uncovered becomes 0."""

    def __init__(self, dx, dy, width, height):
        super().__init__()
        self.dx, self.dy, self.width, self.height = dx, dy, width, height

    def apply_image(self, img):
        to_y, from_y = _overlap(self.dy, self.height)
        to_x, from_x = _overlap(self.dx, self.width)
        shifted = np.zeros_like(img)
        shifted[to_y, to_x] = img[from_y, from_x]
        return shifted

    def apply_coords(self, coords):
        return coords + np.array([self.dx, self.dy], dtype=coords.dtype)

    def apply_box(self, box):
        """Moves XYXY boxes and cuts them to the image."""
        limits = np.array([self.width, self.height] * 2, dtype=box.dtype)
        return np.clip(super().apply_box(box), 0, limits)

    def inverse(self):
        return ShiftTransform(-self.dx, -self.dy, self.width, self.height)


def _overlap(shift, size):
    """Slices of the target and of the source along one axis."""
    shift = max(-size, min(size, shift))
    return slice(max(shift, 0), size + min(shift, 0)), slice(max(-shift, 0), size - max(shift, 0))


class RandomShift(Augmentation):
    """Shifts with probability `prob`, each axis by its own integer in [-max_shift, max_shift - 1].

    Source: YOLOF's released code, also for the upper end being exclusive.

    Args:
        max_shift: pixels of the network input; 0 turns the augmentation off.
        prob: probability of a shift.
    """

    def __init__(self, max_shift=32, prob=0.5):
        super().__init__()
        self.max_shift, self.prob = max_shift, prob

    def get_transform(self, image):
        if self.max_shift == 0 or np.random.uniform() >= self.prob:
            return NoOpTransform()
        dx, dy = np.random.randint(-self.max_shift, self.max_shift, size=2).tolist()
        return ShiftTransform(dx, dy, image.shape[1], image.shape[0])
