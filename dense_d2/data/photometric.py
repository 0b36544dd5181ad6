"""Photometric distortion of SSD, in the order that ASFF's released code keeps: brightness, contrast, hue, saturation.

Shapes: image (H, W, 3) uint8, BGR.
"""

import dataclasses

import cv2
import numpy as np

from .hsv import HUE_LEVELS, apply_hsv_tables

__all__ = ["PhotometricDistortion"]


class PhotometricDistortion:
    """Step of a composition.

    Args:
        brightness: levels added, from U(-brightness, brightness).
        contrast, saturation: (low, high) of a factor.
        hue: levels of OpenCV's 0..179 added, whole numbers from -hue to hue.
        prob: of each of the four.
    """

    def __init__(self, *, brightness=32, contrast=(0.5, 1.5), hue=18, saturation=(0.5, 1.5), prob=0.5):
        self.brightness, self.hue, self.prob = brightness, hue, prob
        self.contrast, self.saturation = tuple(contrast), tuple(saturation)

    def __call__(self, picture, draw, size):
        levels, tables = self.draw_tables()
        image = cv2.LUT(picture.image, levels)
        return dataclasses.replace(picture, image=apply_hsv_tables(image, tables))

    def draw_tables(self):
        """The tables of brightness and contrast, (256,), and of hue, saturation, value, (3, 256); uint8."""
        shift, contrast, hue, saturation = 0.0, 1.0, 0, 1.0
        if np.random.uniform() < self.prob:
            shift = np.random.uniform(-self.brightness, self.brightness)
        if np.random.uniform() < self.prob:
            contrast = np.random.uniform(*self.contrast)
        if np.random.uniform() < self.prob:
            hue = np.random.randint(-self.hue, self.hue + 1)
        if np.random.uniform() < self.prob:
            saturation = np.random.uniform(*self.saturation)
        levels = np.arange(256)
        shifted = _to_uint8(_to_uint8(levels + shift) * contrast)
        hues = ((levels + hue) % HUE_LEVELS).astype(np.uint8)
        return shifted, np.stack([hues, _to_uint8(levels * saturation), _to_uint8(levels)])


def _to_uint8(values):
    return np.clip(values, 0, 255).astype(np.uint8)
