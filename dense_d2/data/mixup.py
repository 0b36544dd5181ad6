"""MixUp of YOLOX: the average with a second, resized and mirrored image.

Source: YOLOX, section 2.1 and released code of August 2021 (box filter; the range 0.5 to 1.5 is what really ran).
Shapes: images (H, W, 3) uint8; boxes XYXY in pixels, float32.
"""

import dataclasses

import cv2
import numpy as np

from .affine import clip_boxes, is_candidate
from .letterbox import PAD_VALUE, fit_size
from .picture import gather_boxes

__all__ = ["MixUp"]


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
        jitter, flip = np.random.uniform(*self.scale), np.random.uniform() < self.flip_prob
        partner = self._draw_partner(draw)
        if partner is None:
            return picture
        jittered = int(size[0] * jitter), int(size[1] * jitter)
        top, left = (
            np.random.randint(extra) if (extra := full - side) > 0 else 0 for full, side in zip(jittered, size)
        )
        return self.blend(picture, partner, size, jittered, flip, (left, top))

    def _draw_partner(self, draw):
        for _ in range(self.max_draws):
            partner = draw()
            if len(partner.boxes):
                return partner
        return None

    def blend(self, picture, partner, size, jittered, flip, corner):
        """
        Args:
            size: (height, width) of the picture and the result.
            jittered: (height, width) of the letterboxed partner after scaling.
            flip: mirror the partner.
            corner: (x, y) of the window in the scaled partner.
        """
        height, width, ratio = fit_size(*partner.image.shape[:2], jittered)
        boxes = partner.boxes * np.float32(ratio)
        if flip:
            boxes[:, [0, 2]] = jittered[1] - boxes[:, [2, 0]]
        boxes -= np.float32(corner * 2)
        shown = clip_boxes(boxes, size)
        keep = is_candidate(boxes, shown, **self.candidates)
        if not keep.any():
            return picture
        content = cv2.resize(partner.image, (width, height), interpolation=cv2.INTER_LINEAR)
        if flip:
            content = cv2.flip(content, 1)
        left = jittered[1] - width if flip else 0
        other = _window(content, left, jittered, corner, size)
        # -0.25 turns cv2's rounding into cutting down, as the released code does
        image = cv2.addWeighted(picture.image, 0.5, other, 0.5, -0.25)
        boxes, classes, weights = gather_boxes([picture, partner.moved(other, shown).select(keep)])
        return dataclasses.replace(picture, image=image, boxes=boxes, classes=classes, weights=weights, masks=None)


def _window(content, left, jittered, corner, size):
    """The window of `size` at `corner` of a letterboxed image with `content` at x = left, y = 0; black outside of it."""
    window = np.zeros((*size, 3), dtype=np.uint8)
    window[: jittered[0] - corner[1], : jittered[1] - corner[0]] = PAD_VALUE
    x1, x2 = max(left - corner[0], 0), min(left + content.shape[1] - corner[0], size[1])
    y2 = min(content.shape[0] - corner[1], size[0])
    if x1 < x2 and y2 > 0:
        from_x = x1 + corner[0] - left
        window[:y2, x1:x2] = content[corner[1] : corner[1] + y2, from_x : from_x + x2 - x1]
    return window
