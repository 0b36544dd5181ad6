"""Random mirror image, left to right."""

import cv2
import numpy as np

__all__ = ["RandomFlip"]


class RandomFlip:
    """Step of a composition. Args: prob: of mirroring."""

    def __init__(self, prob=0.5):
        self.prob = prob

    def __call__(self, picture, draw, size):
        if np.random.uniform() >= self.prob:
            return picture
        boxes = picture.boxes.copy()
        boxes[:, [0, 2]] = picture.image.shape[1] - boxes[:, [2, 0]]
        return picture.moved(cv2.flip(picture.image, 1), boxes)
