"""What a composition works on: an image with its boxes, as arrays; and the reader that makes it from a record.

The images stay (H, W, 3) uint8 in BGR until `Composition` turns the last one into a tensor. An image may be shared
with the cache: no step writes into the one it is given.
Shapes: n boxes XYXY in pixels of the image, float32.
"""

import dataclasses
from typing import Any, List, Optional

import cv2
import numpy as np

from ..datasets import to_xywh
from .letterbox import as_size, fit_size
from .mapper import read_image

__all__ = ["Picture", "PictureReader", "gather_boxes"]


@dataclasses.dataclass
class Picture:
    """
    Attributes:
        image: (H, W, 3) uint8, BGR.
        boxes: (n, 4) float32.
        classes: (n,) int64.
        record: what else is known of the (first) image: file_name, image_id, height and width of the file.
        weights: (n,) float32 in [0, 1], or None where every box counts 1.
        masks: n COCO segmentations in pixels of the file, or None.
        mask_scale: (x, y) factors from pixels of the file to pixels of `image`.
    """

    image: np.ndarray
    boxes: np.ndarray
    classes: np.ndarray
    record: dict
    weights: Optional[np.ndarray] = None
    masks: Optional[List[Any]] = None
    mask_scale: tuple = (1.0, 1.0)

    def moved(self, image, boxes):
        """The same objects in another image. Masks are left behind: only pictures as they were read have them."""
        return dataclasses.replace(self, image=image, boxes=boxes, masks=None)

    def select(self, keep):
        """Args: keep (n,) bool or indices. Returns the picture with these boxes only."""
        return dataclasses.replace(
            self,
            boxes=self.boxes[keep],
            classes=self.classes[keep],
            weights=None if self.weights is None else self.weights[keep],
            masks=None if self.masks is None else [self.masks[i] for i in np.arange(len(self.boxes))[keep]],
        )


def gather_boxes(pictures):
    """Returns boxes, classes and weights (None if nobody has any) of all pictures, one after the other."""
    weights = None
    if any(picture.weights is not None for picture in pictures):
        ones = [np.ones(len(p.boxes), np.float32) if p.weights is None else p.weights for p in pictures]
        weights = np.concatenate(ones)
    return np.concatenate([p.boxes for p in pictures]), np.concatenate([p.classes for p in pictures]), weights


class PictureReader:
    """Maps a record to a Picture.

    Args:
        max_size: a side or (height, width): larger images are shrunk to fit, by the letterbox rule; smaller ones stay.
            None: every image stays.
        keep_crowds: take crowd boxes for ordinary objects; else they are left out.
        last_pixel_boxes: the right and bottom edge of a box are its last pixels, so boxes are one pixel narrower than
            in Detectron2 and end at W - 1, H - 1 (ASFF's released code).

    Attributes:
        cache: None, or what `cache.open_cache` gave: images after shrinking.
    """

    def __init__(self, max_size=None, *, keep_crowds=False, last_pixel_boxes=False):
        self.max_size = None if max_size is None else as_size(max_size)
        self.keep_crowds, self.last_pixel_boxes = keep_crowds, last_pixel_boxes
        self.cache = None

    def __call__(self, record):
        """Args: record, left unchanged. Raises: UnreadableImage."""
        record = dict(record)
        annotations = [a for a in record.pop("annotations", ()) if self.keep_crowds or not a.get("iscrowd", 0)]
        image = self._read(record) if self.cache is None else self.cache.get(record, self._read)
        record.pop("cache_slot", None)
        scale_y, scale_x = image.shape[0] / record["height"], image.shape[1] / record["width"]
        boxes = self._boxes(annotations, record["width"], record["height"])
        if (scale_x, scale_y) != (1, 1):
            boxes *= self._ratio(record["height"], record["width"])
        masks = [a.get("segmentation") for a in annotations]  # None unless build_train_loader(keep_masks=True)
        return Picture(
            image=image,
            boxes=boxes.astype(np.float32),
            classes=np.array([a["category_id"] for a in annotations], dtype=np.int64),
            record=record,
            masks=masks if any(masks) else None,
            mask_scale=(scale_x, scale_y),
        )

    def image_shape(self, height, width):
        """(height, width) after reading, of an image file with these sides."""
        if self.max_size is None or (height <= self.max_size[0] and width <= self.max_size[1]):
            return height, width
        return fit_size(height, width, self.max_size)[:2]

    def _ratio(self, height, width):
        return fit_size(height, width, self.max_size)[2]

    def _read(self, record):
        image = read_image(record, "BGR", fast=True)
        height, width = self.image_shape(*image.shape[:2])
        if (height, width) == image.shape[:2]:
            return image
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)

    def _boxes(self, annotations, width, height):
        """(n, 4) float64, cut to the image, in pixels of the file."""
        boxes = [to_xywh(a["bbox"], a["bbox_mode"]) for a in annotations]
        boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        if self.last_pixel_boxes:
            boxes[:, 2:] = np.maximum(boxes[:, 2:] - 1, 0)
            width, height = width - 1, height - 1
        boxes[:, 2:] += boxes[:, :2]
        return np.clip(boxes, 0, [width, height] * 2)
