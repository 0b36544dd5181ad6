"""MixUp of "Bag of Freebies": two whole images added with weights, and boxes that weigh as much as their image.

Source: ASFF, section 4.1 and released code: lambda from Beta(1.5, 1.5); images as they are, top left on a black canvas that
holds both. The released code draws the partner among the other images; ours may be the picture itself, once in as many
draws as there are images.
Shapes: images (H, W, 3) uint8; boxes XYXY in pixels, float32.
"""

import cv2
import numpy as np

from .picture import Picture

__all__ = ["BetaMixUp"]


class BetaMixUp:
    """Step of a composition: gives the boxes `weights`, lambda and 1 - lambda.

    Args:
        alpha: both parameters of the Beta distribution.
    """

    def __init__(self, alpha=1.5):
        self.alpha = alpha

    def __call__(self, picture, draw, size):
        return self.blend(picture, draw(), float(np.random.beta(self.alpha, self.alpha)))

    def blend(self, picture, partner, weight):
        """Args: weight of the picture, in [0, 1]."""
        shape = np.maximum(picture.image.shape, partner.image.shape)
        first, second = (_on_canvas(p.image, shape) for p in (picture, partner))
        # minus a half turns cv2's rounding into cutting down, as the released code does
        image = cv2.addWeighted(first, weight, second, 1 - weight, -0.5 + 1e-4)
        return Picture(
            image=image,
            boxes=np.concatenate([picture.boxes, partner.boxes]),
            classes=np.concatenate([picture.classes, partner.classes]),
            record=picture.record,
            weights=np.repeat(np.float32([weight, 1 - weight]), [len(picture.boxes), len(partner.boxes)]),
        )


def _on_canvas(image, shape):
    if image.shape == tuple(shape):
        return image
    canvas = np.zeros(shape, dtype=np.uint8)
    canvas[: image.shape[0], : image.shape[1]] = image
    return canvas
