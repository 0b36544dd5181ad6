"""Resize to exactly the input size, without keeping the aspect ratio.

Source: ASFF, released code: training draws one of five interpolations; testing is OpenCV bilinear.
Shapes: image (H, W, 3) uint8; boxes XYXY in pixels, float32.
"""

import cv2
import numpy as np
from detectron2.data.transforms import Augmentation

from .letterbox import BilinearResizeTransform, as_size

__all__ = ["INTERPOLATIONS", "Stretch", "StretchResize"]

INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "nearest": cv2.INTER_NEAREST,
    "lanczos": cv2.INTER_LANCZOS4,
}


class Stretch:
    """Step of a composition. Args: interpolations: names of INTERPOLATIONS, one is drawn for each picture."""

    def __init__(self, interpolations=tuple(INTERPOLATIONS)):
        self.interpolations = [INTERPOLATIONS[name] for name in interpolations]

    def __call__(self, picture, draw, size):
        interpolation = self.interpolations[np.random.randint(len(self.interpolations))]
        height, width = picture.image.shape[:2]
        image = cv2.resize(picture.image, size[::-1], interpolation=interpolation)
        return picture.moved(image, picture.boxes * np.float32([size[1] / width, size[0] / height] * 2))


class StretchResize(Augmentation):
    """For testing, in a DenseMapper. Args: size: a side or (height, width)."""

    def __init__(self, size):
        super().__init__()
        self.size = as_size(size)

    def get_transform(self, image):
        return BilinearResizeTransform(*image.shape[:2], *self.size)
