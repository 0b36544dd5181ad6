"""MixUp of YOLOX: the average with a second, resized and mirrored image.

Source: YOLOX, section 2.1 and released code of August 2021 (box filter; the range 0.5 to 1.5 is what really ran).
Shapes: images (H, W, 3) uint8; boxes XYXY in pixels, float32.
"""

import dataclasses
from typing import NamedTuple, Tuple

import cv2
import numpy as np

from .affine import clip_boxes, is_candidate
from .letterbox import PAD_VALUE, Letterbox, fit_size
from .picture import gather_boxes

__all__ = ["MixUp", "Placement", "draw_partner", "draw_placement", "place"]


class MixUp:
    """Letterboxes a partner, scales it by a random factor, mirrors it half of the time, cuts a random window of the input
    size from it (black where there is nothing), and averages. All boxes count 1.

    A picture without boxes stays alone, and so does one whose partner would add no box.

    Args:
        scale: (low, high) of the factor.
        flip_prob: probability of mirroring.
        max_draws: how many partners to try until one has a box.
        min_side, min_area_ratio, max_aspect: what a partner's box has to be in the window; see `affine.is_candidate`.
    """

    def __init__(
        self, *, scale=(0.5, 1.5), flip_prob=0.5, max_draws=10, min_side=5.0, min_area_ratio=0.2, max_aspect=20.0
    ):
        self.scale, self.flip_prob, self.max_draws = tuple(scale), flip_prob, max_draws
        self.candidates = dict(min_side=min_side, min_area_ratio=min_area_ratio, max_aspect=max_aspect)

    def __call__(self, picture, draw, size):
        if not len(picture.boxes):
            return picture
        placement = draw_placement(self.scale, self.flip_prob, size)
        partner = draw_partner(draw, self.max_draws, lambda p: len(p.boxes))
        return picture if partner is None else self.blend(picture, partner, size, placement)

    def blend(self, picture, partner, size, placement):
        """The average of two pictures, the first letterboxed into `size` (height, width) if it is not of that size."""
        other, boxes = place(partner, size, placement)
        shown = clip_boxes(boxes, size)
        keep = is_candidate(boxes, shown, **self.candidates)
        if not keep.any():
            return picture
        picture = Letterbox()(picture, None, size)
        # -0.25 turns cv2's rounding into cutting down, as the released code does
        image = cv2.addWeighted(picture.image, 0.5, other, 0.5, -0.25)
        boxes, classes, weights = gather_boxes([picture, partner.moved(other, shown).select(keep)])
        return dataclasses.replace(picture, image=image, boxes=boxes, classes=classes, weights=weights, masks=None)


class Placement(NamedTuple):
    """Where a partner lies: letterboxed into `jittered` (height, width), mirrored there if `flip`, and seen through a
    window of the input size with its top left at `corner` (x, y)."""

    jittered: Tuple[int, int]
    flip: bool
    corner: Tuple[int, int]

    def ratio(self, image):
        """The factor by which the partner's image is resized."""
        return fit_size(*image.shape[:2], self.jittered)[2]


def draw_placement(scale, flip_prob, size):
    """Args: scale (low, high) of jittered over input size, size (height, width) of the input."""
    factor, flip = np.random.uniform(*scale), bool(np.random.uniform() < flip_prob)
    jittered = max(int(size[0] * factor), 1), max(int(size[1] * factor), 1)
    spare = [max(jittered[axis] - size[axis], 1) for axis in (1, 0)]
    return Placement(jittered, flip, tuple(np.random.randint(spare).tolist()))


def draw_partner(draw, max_draws, is_wanted):
    """The first wanted picture of at most `max_draws`, or None: a data set without any must not stop the run."""
    for _ in range(max_draws):
        partner = draw()
        if is_wanted(partner):
            return partner
    return None


def place(partner, size, placement):
    """Returns the partner as an image of `size`, padded with 114 where the letterbox is and black outside of it, and its
    boxes there, not cut."""
    (jittered_height, jittered_width), flip, (x, y) = placement
    height, width, ratio = fit_size(*partner.image.shape[:2], placement.jittered)
    content = cv2.resize(partner.image, (width, height), interpolation=cv2.INTER_LINEAR)
    boxes = partner.boxes * np.float32(ratio)
    if flip:
        content = cv2.flip(content, 1)
        boxes[:, [0, 2]] = jittered_width - boxes[:, [2, 0]]
    left = (jittered_width - width if flip else 0) - x  # of the content in the window
    window = np.zeros((*size, 3), dtype=np.uint8)
    window[: jittered_height - y, : jittered_width - x] = PAD_VALUE
    x1, x2, y2 = max(left, 0), min(left + width, size[1]), min(height - y, size[0])
    if x1 < x2 and y2 > 0:
        window[:y2, x1:x2] = content[y : y + y2, x1 - left : x2 - left]
    return window, boxes - np.float32([x, y, x, y])
