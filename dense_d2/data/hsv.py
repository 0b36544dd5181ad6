"""Random change of hue, saturation and value by tables.

Source: YOLOX, released code. Both kinds change every level of a channel alike, so each is three 256-entry tables.
Shapes: image (H, W, 3) uint8, BGR.
"""

import dataclasses

import cv2
import numpy as np

__all__ = ["RandomHSV", "apply_hsv_tables"]

HUE_LEVELS = 180  # OpenCV's 8-bit hue is half a degree circle: 0..179


def apply_hsv_tables(image, tables, to_hsv=cv2.COLOR_BGR2HSV, from_hsv=cv2.COLOR_HSV2BGR):
    """Args: tables (3, 256) uint8. Three one-channel look-ups take half the time of one with three channels."""
    hsv = cv2.cvtColor(image, to_hsv)
    channels = [cv2.LUT(channel, table) for channel, table in zip(cv2.split(hsv), tables)]
    return cv2.cvtColor(cv2.merge(channels, hsv), from_hsv)


class RandomHSV:
    """Step of a composition.

    Args:
        gains: of hue, saturation, value. Multiplicative: each channel is multiplied by U(1 - gain, 1 + gain). Additive:
            levels, drawn from U(-gain, gain) and cut to whole numbers, added to each channel half of the time.
        additive: the released code since October 2021, with gains (5, 30, 30); the default trained the published weights.
        prob: of any change.
    """

    def __init__(self, gains=(0.015, 0.7, 0.4), *, additive=False, prob=1.0):
        if len(gains) != 3:
            raise ValueError(f"gains is {list(gains)}; give three, of hue, saturation and value")
        self.gains, self.additive, self.prob = np.array(list(gains), dtype=np.float64), additive, prob

    def __call__(self, picture, draw, size):
        if np.random.uniform() >= self.prob:
            return picture
        return dataclasses.replace(picture, image=apply_hsv_tables(picture.image, self.draw_tables()))

    def draw_tables(self):
        """(3, 256) uint8."""
        draws = np.random.uniform(-1, 1, 3) * self.gains
        levels = np.arange(256)[None]
        if self.additive:
            shifts = (draws * np.random.randint(0, 2, 3)).astype(np.int64)
            tables = levels + shifts[:, None]
        else:
            tables = levels * (1 + draws[:, None])
        tables[0] %= HUE_LEVELS
        return np.clip(tables, 0, 255).astype(np.uint8)
