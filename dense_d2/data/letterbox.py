"""Letterbox: resize keeping the aspect ratio until the image just fits, then pad to the full size, bottom and right.

Source: YOLOX, released code: r = min(H / h, W / w), also above 1; sides int(h r) x int(w r); OpenCV bilinear without
antialiasing; pad value 114. Sides are computed in whole numbers here, so that the limiting side is met exactly.
Shapes: image (h, w, 3) uint8; size (H, W).
"""

import cv2
import numpy as np
from detectron2.data.transforms import Augmentation, NoOpTransform, Transform

__all__ = ["PAD_VALUE", "Letterbox", "LetterboxResize", "as_size", "fit_image", "fit_size"]

PAD_VALUE = 114


def as_size(size):
    """Args: a side or (height, width), in pixels. Returns (height, width)."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"size is {size}; give a side or (height, width), in pixels")
    return int(height), int(width)


def fit_size(height, width, size):
    """Returns the (height, width) of an image resized to fit `size`, and the factor r."""
    most_high, most_wide = size
    if most_high * width <= most_wide * height:
        return most_high, max(1, width * most_high // height), most_high / height
    return max(1, height * most_wide // width), most_wide, most_wide / width


def fit_image(image, size):
    """Returns the resized image and the factor r, which boxes are multiplied by."""
    height, width, ratio = fit_size(*image.shape[:2], size)
    if (height, width) != image.shape[:2]:
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return image, ratio


class Letterbox:
    """Step of a composition: fits the picture and pads it to exactly the network's input size."""

    def __call__(self, picture, draw, size):
        image, ratio = fit_image(picture.image, size)
        if image.shape[:2] != tuple(size):
            padded = np.full((*size, 3), PAD_VALUE, dtype=np.uint8)
            padded[: image.shape[0], : image.shape[1]] = image
            image = padded
        return picture.moved(image, picture.boxes if ratio == 1 else picture.boxes * np.float32(ratio))


class LetterboxResize(Augmentation):
    """For testing, in a DenseMapper: fits the image into `size`, a side or (height, width), and leaves the padding to
    the model."""

    def __init__(self, size):
        super().__init__()
        self.size = as_size(size)

    def get_transform(self, image):
        height, width = image.shape[:2]
        new_height, new_width, _ = fit_size(height, width, self.size)
        if (new_height, new_width) == (height, width):
            return NoOpTransform()
        return BilinearResizeTransform(height, width, new_height, new_width)


class BilinearResizeTransform(Transform):
    """OpenCV's bilinear resize: four neighbours, no antialiasing. Detectron2's ResizeTransform smooths, by Pillow."""

    def __init__(self, height, width, new_height, new_width):
        super().__init__()
        self.height, self.width, self.new_height, self.new_width = height, width, new_height, new_width

    def apply_image(self, img):
        img = np.ascontiguousarray(img)
        return cv2.resize(img, (self.new_width, self.new_height), interpolation=cv2.INTER_LINEAR)

    def apply_coords(self, coords):
        return coords * np.array([self.new_width / self.width, self.new_height / self.height], dtype=coords.dtype)

    def apply_segmentation(self, segmentation):
        return cv2.resize(segmentation, (self.new_width, self.new_height), interpolation=cv2.INTER_NEAREST)

    def inverse(self):
        return BilinearResizeTransform(self.new_height, self.new_width, self.height, self.width)
