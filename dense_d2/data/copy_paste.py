"""Copy-paste: objects of another image, cut out by their masks, on top of the picture.

Source: YOLOX, Table 5, names it for the large models; neither paper nor released code says more. Ours takes the partner's
geometry from MixUp (letterbox, random factor, mirror, random window) and the rest from "Simple Copy-Paste" (Ghiasi et al.,
2021): a random half of the objects, all sharp, and objects that disappear behind them are dropped.
Shapes: images (H, W, 3) uint8; masks (H, W) uint8, 0 or 1; boxes XYXY in pixels, float32.
"""

import dataclasses

import cv2
import numpy as np
from pycocotools import mask as rle

from .affine import clip_boxes, is_candidate
from .letterbox import Letterbox
from .mixup import draw_partner, draw_placement, place
from .picture import gather_boxes

__all__ = ["CopyPaste", "usable_mask"]


class CopyPaste:
    """Step of a composition; comes after the mosaic, if there is one.

    Args:
        scale: (low, high) of the partner's factor.
        flip_prob: probability of mirroring the partner.
        instance_prob: probability of pasting each of its objects.
        max_covered: an object of the picture is dropped if more than this part of its box is pasted over.
        max_draws: how many partners to try until one has a mask.
        min_side, min_area_ratio, max_aspect: what a pasted box has to be; see `affine.is_candidate`.
    """

    needs_masks = True

    def __init__(
        self,
        *,
        scale=(0.5, 1.5),
        flip_prob=0.5,
        instance_prob=0.5,
        max_covered=0.7,
        max_draws=10,
        min_side=5.0,
        min_area_ratio=0.2,
        max_aspect=20.0,
    ):
        self.scale, self.flip_prob, self.instance_prob = tuple(scale), flip_prob, instance_prob
        self.max_covered, self.max_draws = max_covered, max_draws
        self.candidates = dict(min_side=min_side, min_area_ratio=min_area_ratio, max_aspect=max_aspect)

    def __call__(self, picture, draw, size):
        placement = draw_placement(self.scale, self.flip_prob, size)
        partner = draw_partner(draw, self.max_draws, lambda p: any(map(usable_mask, p.masks or ())))
        if partner is None:
            return picture
        drawn = np.random.uniform(size=len(partner.boxes)) < self.instance_prob
        chosen = np.array([bool(wanted and usable_mask(mask)) for wanted, mask in zip(drawn, partner.masks)])
        return self.paste(picture, partner.select(chosen), size, placement)

    def paste(self, picture, partner, size, placement):
        """Pastes all objects of the partner that are worth it on the picture, letterboxed into `size` if need be."""
        other, boxes = place(partner, size, placement)
        shown = clip_boxes(boxes, size)
        keep = is_candidate(boxes, shown, **self.candidates)
        if not keep.any():
            return picture
        partner = partner.select(keep)
        pasted = np.zeros(size, dtype=np.uint8)
        for mask in partner.masks:
            _draw(mask, partner, placement, pasted)
        picture = Letterbox()(picture, None, size)
        image = picture.image.copy()
        cv2.copyTo(other, pasted, image)
        picture = picture.select(_covered(picture.boxes, pasted) <= self.max_covered)
        boxes, classes, weights = gather_boxes([picture, partner.moved(other, shown[keep])])
        return dataclasses.replace(picture, image=image, boxes=boxes, classes=classes, weights=weights, masks=None)


def usable_mask(mask):
    """Args: mask: a COCO segmentation or None. Returns run lengths as they are, or the list of the polygons of at least
    three points. It is empty where there is none, and for run lengths that do not fit their size. A single polygon may
    stand for a list of one."""
    if isinstance(mask, dict):
        return [] if _decode(mask) is None else mask
    if mask and isinstance(mask[0], (int, float)):
        mask = [mask]
    return [polygon for polygon in mask or () if len(polygon) >= 6 and len(polygon) % 2 == 0]


def _decode(mask):
    """The (H, W) mask of COCO run lengths, or None where they are damaged."""
    try:
        if isinstance(mask["counts"], list):
            mask = rle.frPyObjects(mask, *mask["size"])
        return rle.decode(mask)
    except (KeyError, OverflowError, TypeError, ValueError):
        return None


def _draw(mask, partner, placement, pasted):
    """Sets the pixels of a COCO segmentation, polygons or run lengths, to 1, where the partner is placed."""
    scale = placement.ratio(partner.image) * np.array(partner.mask_scale)
    matrix = np.diag(scale) @ np.eye(2, 3)
    matrix[:, 2] = -np.array(placement.corner)
    if placement.flip:
        matrix[0] = -scale[0], 0, placement.jittered[1] - placement.corner[0]
    if isinstance(mask, dict):
        full = _decode(mask)
        np.maximum(pasted, cv2.warpAffine(full, matrix, pasted.shape[::-1], flags=cv2.INTER_NEAREST), out=pasted)
        return
    polygons = [
        np.asarray(polygon, dtype=np.float64).reshape(-1, 2) @ matrix[:, :2].T + matrix[:, 2]
        for polygon in usable_mask(mask)
    ]
    # one call an object part: fillPoly would leave the overlap of two parts empty
    for polygon in polygons:
        cv2.fillPoly(pasted, [np.floor(polygon).astype(np.int32)], 1)


def _covered(boxes, pasted):
    """(n,): the part of each box that is pasted over."""
    sums = cv2.integral(pasted)
    x1, y1, x2, y2 = np.rint(boxes).astype(np.int64).T
    inside = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    return inside / np.maximum((x2 - x1) * (y2 - y1), 1)
