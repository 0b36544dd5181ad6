"""The order of one training sample: read, strong augmentation, final augmentation, tensors.

A step is `step(picture, draw, size) -> picture`: `draw()` reads another image of the data set, drawn uniformly, and
`size` is the (height, width) of the network input. Steps draw from NumPy's global generator, which is the sample's own.
"""

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from .letterbox import as_size

__all__ = ["Composition"]


class Composition:
    """Maps the pictures of a PictureReader to a training sample: `image` (3, H, W) uint8 and `instances` with
    `gt_boxes`, `gt_classes` and, after a weighted mixup, `gt_weights`. The keys of the first picture's record stay.

    Args:
        input_size: a side or (height, width) of the network input.
        strong: steps left out in the closing phase.
        final: steps of every sample. After the last one the image has the input size.
        strong_prob: probability that a sample gets the strong steps, in the main phase.
        min_box_side: boxes whose width or height is at most this many pixels of the input are dropped.
        max_boxes: only the first so many boxes are kept; None keeps all.
        fallback: if every box is lost, a step list that replaces `final` for this sample, on the picture as it was
            before, with all its boxes of any size; None: an image may be left without boxes.
        image_format: channel order of the tensor, "BGR" or "RGB".
    """

    def __init__(
        self,
        input_size,
        *,
        strong=(),
        final=(),
        strong_prob=1.0,
        min_box_side=1.0,
        max_boxes=120,
        fallback=None,
        image_format="BGR",
    ):
        if image_format not in ("BGR", "RGB"):
            raise ValueError(f"image_format is {image_format!r}; use 'BGR' or 'RGB'")
        if not 0 <= strong_prob <= 1:
            raise ValueError(f"strong_prob is {strong_prob}; give a probability, 0 to 1")
        if max_boxes is not None and max_boxes < 1:
            raise ValueError(f"max_boxes is {max_boxes}; give at least 1, or None to keep all boxes")
        self.input_size = as_size(input_size)
        self.strong, self.final, self.strong_prob = list(strong), list(final), strong_prob
        self.min_box_side, self.max_boxes = min_box_side, max_boxes
        self.fallback = None if fallback is None else list(fallback)
        self.image_format = image_format

    @property
    def needs_masks(self):
        """Whether a step works on masks."""
        return any(getattr(step, "needs_masks", False) for step in self.strong + self.final)

    def __call__(self, picture, draw, *, strong=True, size=None):
        """
        Args:
            picture: of the sample's own image.
            draw: () -> picture of another image.
            strong: whether this iteration is in the main phase.
            size: side or (height, width) of this iteration's input, if it is not `input_size`.
        """
        size = self.input_size if size is None else as_size(size)
        if strong and np.random.uniform() < self.strong_prob:
            picture = _run(self.strong, picture, draw, size)
        result = _drop_small(_run(self.final, picture, draw, size), self.min_box_side)
        if self.fallback is not None and len(picture.boxes) and not len(result.boxes):
            result = _drop_small(_run(self.fallback, picture, draw, size), 0)
        return self.to_sample(result, size)

    def to_sample(self, picture, size):
        """Turns a picture into tensors."""
        if picture.image.shape[:2] != tuple(size):
            raise ValueError(f"the last step gave an image of {picture.image.shape[:2]}, and the input size is {size}")
        picture = picture.select(slice(self.max_boxes))
        instances = Instances(tuple(size))
        instances.gt_boxes = Boxes(torch.from_numpy(np.ascontiguousarray(picture.boxes)))
        instances.gt_classes = torch.from_numpy(picture.classes)
        if picture.weights is not None:
            instances.gt_weights = torch.from_numpy(picture.weights)
        image = _to_planes(picture.image, reverse=self.image_format == "RGB")
        return {**picture.record, "image": torch.from_numpy(image), "instances": instances}


def _run(steps, picture, draw, size):
    for step in steps:
        picture = step(picture, draw, size)
    return picture


def _drop_small(picture, min_side):
    sides = picture.boxes[:, 2:] - picture.boxes[:, :2]
    keep = sides.min(axis=1) > min_side
    return picture if keep.all() else picture.select(keep)


def _to_planes(image, reverse):
    """(H, W, 3) to (3, H, W), in BGR or reversed. cv2.split is ten times as fast as copying a transposed array."""
    planes = np.empty((3, *image.shape[:2]), dtype=np.uint8)
    cv2.split(image, list(planes[::-1] if reverse else planes))
    return planes
