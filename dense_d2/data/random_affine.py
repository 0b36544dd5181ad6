"""Random affine map of one picture, the kind of ASFF's released code.

Departures of that code from plain geometry are kept: the shift along x is in parts of the height and the one along y in
parts of the width, and boxes shrink about their centre with the angle, by sqrt(max(|sin|, |cos|)).
Shapes: image (H, W, 3) uint8; boxes XYXY in pixels, float32.
"""

import cv2
import numpy as np

from .affine import clip_boxes, linear_part, map_about, warp_boxes
from .ssd_crop import IMAGENET_MEAN_BGR

__all__ = ["RandomAffine"]


class RandomAffine:
    """Step of a composition: turns and scales about the centre, shifts, then shears about the top left corner.

    Args:
        degrees, translate, shear: each is drawn from U(-x, x); see above for the unit of translate.
        scale: (low, high) of the factor.
        prob: of the map.
        fill: colour of what is uncovered, in BGR.
    """

    def __init__(self, *, degrees=10.0, translate=0.1, scale=(0.9, 1.1), shear=2.0, prob=0.5, fill=IMAGENET_MEAN_BGR):
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, tuple(scale), shear
        self.prob, self.fill = prob, tuple(fill)

    def __call__(self, picture, draw, size):
        if np.random.uniform() >= self.prob:
            return picture
        height, width = picture.image.shape[:2]
        angle, scale = np.random.uniform(-self.degrees, self.degrees), np.random.uniform(*self.scale)
        shift = np.random.uniform(-self.translate, self.translate, size=2) * (height, width)
        shears = np.random.uniform(-self.shear, self.shear, size=2)
        return self.warp(picture, angle, scale, shift, shears)

    def warp(self, picture, angle, scale, shift, shears):
        """Args: angle and shears in degrees, shift (x, y) in pixels."""
        height, width = picture.image.shape[:2]
        centre = np.array([width / 2, height / 2])
        turned = map_about(linear_part(angle, scale, 0, 0), centre, centre + shift)
        matrix = linear_part(0, 1, *shears) @ turned
        image = cv2.warpAffine(
            picture.image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderValue=tuple(map(float, self.fill))
        )
        boxes = warp_boxes(picture.boxes, matrix)
        radians = np.deg2rad(angle)
        shrink = np.float32(np.sqrt(max(abs(np.sin(radians)), abs(np.cos(radians)))))
        centres, halves = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2 * shrink
        boxes = np.concatenate([centres - halves, centres + halves], axis=1)
        return picture.moved(image, clip_boxes(boxes, (height, width)))
