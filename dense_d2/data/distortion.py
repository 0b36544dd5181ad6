"""Random change of hue, saturation and exposure.

Source: YOLOF's CSPDarkNet recipe (released code), after YOLOv4. The released code converts BGR pixels as if they
were RGB; kept, since it only mirrors the hue circle, and the draw is symmetric.
Shapes: image (H, W, 3) uint8.
"""

import cv2
import numpy as np
from detectron2.data.transforms import Augmentation, Transform

__all__ = ["DistortionTransform", "RandomDistortion"]

HUE_LEVELS = 180  # OpenCV's 8-bit hue is half a degree circle: 0..179


class DistortionTransform(Transform):
    """Changes colours by three 256-entry tables in HSV space.

    Args:
        hue: shift as a fraction of OpenCV's 8-bit hue range, 179.
        saturation, exposure: factors.
        reproduce_hue_bug: as the released code computes it: a hue below 0 wraps to 255 instead of 180 (pure red
            becomes green under a negative shift), and levels are cut down instead of rounded.
    """

    def __init__(self, hue, saturation, exposure, reproduce_hue_bug=False):
        super().__init__()
        self.hue, self.saturation, self.exposure = hue, saturation, exposure
        self.reproduce_hue_bug = reproduce_hue_bug

    def tables(self):
        """(256, 3) uint8: the new hue, saturation and exposure of every level."""
        levels = np.arange(256, dtype=np.float32) / np.float32(255)
        hue = levels + np.float32(self.hue * 179 / 255)
        factors = levels * np.float32(self.saturation), levels * np.float32(self.exposure)
        if self.reproduce_hue_bug:
            if self.hue > 0:
                hue[hue > 1] -= 1
            else:
                hue[hue < 0] += 1
        table = np.stack([hue, *factors], axis=1) * np.float32(255)
        if not self.reproduce_hue_bug:
            table = np.rint(table)
            table[:, 0] %= HUE_LEVELS
        return table.clip(0, 255).astype(np.uint8)

    def apply_image(self, img):
        hsv = cv2.cvtColor(np.ascontiguousarray(img), cv2.COLOR_RGB2HSV)
        return cv2.cvtColor(cv2.LUT(hsv, self.tables().reshape(256, 1, 3)), cv2.COLOR_HSV2RGB)

    def apply_coords(self, coords):
        return coords

    def apply_segmentation(self, segmentation):
        return segmentation


class RandomDistortion(Augmentation):
    """Draws a hue shift from U(-hue, hue), and two factors, each from U(1, s) or, as often, one over that.

    The released code returns float32; its values are whole numbers in 0..255, so uint8 here loses nothing.

    Args:
        hue: largest shift as a fraction of the hue range.
        saturation, exposure: largest factors, at least 1.
        reproduce_hue_bug: see DistortionTransform.
    """

    def __init__(self, hue=0.1, saturation=1.5, exposure=1.5, reproduce_hue_bug=False):
        super().__init__()
        self.hue, self.saturation, self.exposure = hue, saturation, exposure
        self.reproduce_hue_bug = reproduce_hue_bug

    def get_transform(self, image):
        hue = np.random.uniform(-self.hue, self.hue)
        saturation, exposure = (self._draw_factor(most) for most in (self.saturation, self.exposure))
        return DistortionTransform(hue, saturation, exposure, self.reproduce_hue_bug)

    @staticmethod
    def _draw_factor(most):
        factor = np.random.uniform(1, most)
        return factor if np.random.uniform() > 0.5 else 1 / factor
