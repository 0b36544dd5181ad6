"""CutOut: small black rectangles in the image; boxes stay.

Source: VFNet-X's recipe (released code), after DeVries and Taylor 2017.
Shapes: image (H, W, C).
"""

import numpy as np
from detectron2.data.transforms import Augmentation, NoOpTransform, Transform

__all__ = ["CutOut", "CutOutTransform"]

HOLE_SIZES = (
    *((4, 4), (4, 8), (8, 4), (8, 8), (16, 8), (8, 16), (16, 16)),
    *((16, 32), (32, 16), (32, 32), (32, 48), (48, 32), (48, 48)),
)


class CutOutTransform(Transform):
    """Sets the pixels of `holes`, (n, 4) XYXY whole numbers, to 0, in a copy."""

    def __init__(self, holes):
        super().__init__()
        self.holes = holes

    def apply_image(self, img):
        img = img.copy()
        for x1, y1, x2, y2 in self.holes:
            img[y1:y2, x1:x2] = 0
        return img

    def apply_coords(self, coords):
        return coords


class CutOut(Augmentation):
    """Cuts holes with probability `prob`, each of a size drawn from `hole_sizes`, cut off at the right and lower border.

    Args:
        num_holes: (low, high), both included.
        hole_sizes: (width, height) pairs, pixels.
        prob: probability that the image gets any.
    """

    def __init__(self, num_holes=(5, 10), hole_sizes=HOLE_SIZES, prob=0.5):
        super().__init__()
        self.num_holes, self.hole_sizes, self.prob = tuple(num_holes), [tuple(size) for size in hole_sizes], prob

    def get_transform(self, image):
        if np.random.uniform() >= self.prob:
            return NoOpTransform()
        height, width = image.shape[:2]
        holes = []
        for _ in range(np.random.randint(self.num_holes[0], self.num_holes[1] + 1)):
            x, y = np.random.randint(0, width), np.random.randint(0, height)
            hole_width, hole_height = self.hole_sizes[np.random.randint(len(self.hole_sizes))]
            holes.append((x, y, x + hole_width, y + hole_height))
        return CutOutTransform(holes)
