"""Expansion and crop of SSD, as in ASFF's released code: the picture becomes smaller on a larger canvas, or a part of it is cut.

Shapes: images (H, W, 3) uint8; boxes XYXY in pixels, float32; a patch is (x1, y1, x2, y2) in pixels.
"""

import dataclasses

import numpy as np

from .affine import clip_boxes

__all__ = ["IMAGENET_MEAN_BGR", "Expand", "MinIoUCrop"]

IMAGENET_MEAN_BGR = (104, 116, 124)  # 255 * (0.406, 0.456, 0.485)
TRIALS = 50


class Expand:
    """Puts the picture somewhere on a canvas filled with the mean colour.

    Args:
        most: the canvas' side is U(1, most) times the picture's; its aspect ratio changes by at most sqrt(2) either way.
        prob: of expanding.
        fill: colour in BGR.
    """

    def __init__(self, *, most=4.0, prob=0.5, fill=IMAGENET_MEAN_BGR):
        self.most, self.prob, self.fill = most, prob, tuple(fill)

    def __call__(self, picture, draw, size):
        if np.random.uniform() >= self.prob:
            return picture
        height, width = picture.image.shape[:2]
        for _ in range(TRIALS):
            scale = np.random.uniform(1, self.most)
            stretch = np.sqrt(np.random.uniform(max(0.5, 1 / scale**2), min(2, scale**2)))
            if scale * stretch >= 1 and scale / stretch >= 1:
                canvas = int(height * scale / stretch), int(width * scale * stretch)
                top, left = (np.random.randint(full - side + 1) for full, side in zip(canvas, (height, width)))
                return self.place(picture, canvas, left, top)
        return picture

    def place(self, picture, canvas, left, top):
        """Args: canvas (height, width)."""
        image = np.empty((*canvas, 3), dtype=np.uint8)
        image[:] = np.uint8(self.fill)
        image[top : top + picture.image.shape[0], left : left + picture.image.shape[1]] = picture.image
        return picture.moved(image, picture.boxes + np.float32([left, top, left, top]))


class MinIoUCrop:
    """Cuts a patch whose IoU with every box is at least one of `min_ious`, drawn anew until a patch is found. Boxes whose
    centre is strictly inside the patch stay, cut to it.

    Args:
        min_ious: None keeps the picture; 0 takes any patch that keeps a box.
        scale: (low, high) of the patch's side over the picture's; the aspect ratio changes by at most sqrt(2) either way.
    """

    def __init__(self, *, min_ious=(None, 0.1, 0.3, 0.5, 0.7, 0.9, 0.0), scale=(0.3, 1.0)):
        self.min_ious, self.scale = list(min_ious), tuple(scale)
        if None not in self.min_ious:
            raise ValueError(
                f"min_ious is {self.min_ious}; it needs a None, or a picture without a fitting patch never ends"
            )

    def __call__(self, picture, draw, size):
        if not len(picture.boxes):
            return picture
        while True:
            min_iou = self.min_ious[np.random.randint(len(self.min_ious))]
            if min_iou is None:
                return picture
            for _ in range(TRIALS):
                patch = self._draw_patch(*picture.image.shape[:2])
                if patch_ious(picture.boxes, patch).min() >= min_iou:
                    inside = has_centre(picture.boxes, patch)
                    if inside.any():
                        return cut(picture.select(inside), patch)

    def _draw_patch(self, height, width):
        scale = np.random.uniform(*self.scale)
        stretch = np.sqrt(np.random.uniform(max(0.5, scale**2), min(2, 1 / scale**2)))
        sides = max(int(width * scale * stretch), 1), max(int(height * scale / stretch), 1)
        x1, y1 = (np.random.randint(max(full - side, 1)) for full, side in zip((width, height), sides))
        return x1, y1, min(x1 + sides[0], width), min(y1 + sides[1], height)


def patch_ious(boxes, patch):
    """(n,): IoU of every box with the patch."""
    patch = np.float32(patch)
    overlap = np.clip(np.minimum(boxes[:, 2:], patch[2:]) - np.maximum(boxes[:, :2], patch[:2]), 0, None).prod(axis=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1) + (patch[2:] - patch[:2]).prod()
    return overlap / (areas - overlap)


def has_centre(boxes, patch):
    """(n,) bool: the centre lies strictly inside the patch."""
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return ((centres > np.float32(patch[:2])) & (centres < np.float32(patch[2:]))).all(axis=1)


def cut(picture, patch):
    """The part of a picture inside a patch."""
    x1, y1, x2, y2 = patch
    boxes = clip_boxes(picture.boxes - np.float32([x1, y1, x1, y1]), (y2 - y1, x2 - x1))
    return dataclasses.replace(picture, image=picture.image[y1:y2, x1:x2], boxes=boxes, masks=None)
