"""From a dataset record to what a model takes: read the image, augment image and boxes, wrap them as tensors.

Shapes: image (C, H, W), n boxes XYXY in pixels of the augmented image.
"""

import logging

import cv2
import numpy as np
import torch
from detectron2.data import detection_utils
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from ..datasets import to_xywh
from ..errors import UserError
from .jpeg import decode_jpeg

__all__ = ["DenseMapper", "UnreadableImage", "read_image"]

logger = logging.getLogger(__name__)


class UnreadableImage(UserError):
    """An image file that cannot be read, or whose size is not what the annotations say."""

    def __init__(self, path, reason=None):
        if reason is None:  # a DataLoader makes its worker's error anew from one text, a traceback that ends in `str`
            path, reason = path.rstrip().rpartition(f"{type(self).__name__}: ")[2].split(": ", 1)
        super().__init__(path, reason)
        self.path, self.reason = path, reason

    def __str__(self):
        return f"{self.path}: {self.reason}"


class _TrackedInput(T.AugInput):
    """AugInput that knows where its content lies: `content` is XYXY, without padding and shifted-in bands."""

    def __init__(self, image, boxes):
        super().__init__(image, boxes=boxes)
        self.content = np.array([[0, 0, image.shape[1], image.shape[0]]], dtype=np.float64)

    def transform(self, tfm):
        super().transform(tfm)
        if self.image.strides[1] < 0:  # a flip is a view; every later copy of it costs 30 times what this does
            self.image = cv2.flip(self.image[:, ::-1], 1)
        corners = tfm.apply_coords(self.content.reshape(2, 2).copy())
        height, width = self.image.shape[:2]
        self.content = np.clip(np.concatenate([corners.min(axis=0), corners.max(axis=0)]), 0, [width, height] * 2)


class DenseMapper:
    """Maps a Detectron2 dataset dict to the input of a detector.

    In training the result has `instances` with `gt_boxes` and `gt_classes`, cut to the image, without crowds and
    without boxes that the augmentations emptied, and `content`: the (x1, y1, x2, y2) part of the image that is no
    padding. All other keys of the record stay; `annotations` goes.

    Args:
        is_train: with boxes, or the image only.
        augmentations: Detectron2 augmentations or transforms, applied in order.
        image_format: channel order of `image`, "BGR" or "RGB".
        min_box_side: boxes whose width or height is at most this many pixels count as emptied.
    """

    def __init__(self, is_train, *, augmentations, image_format="BGR", min_box_side=1e-5):
        if image_format not in ("BGR", "RGB"):
            raise ValueError(f"image_format is {image_format!r}; use 'BGR' or 'RGB'")
        self.is_train = is_train
        self.augmentations = T.AugmentationList(list(augmentations))
        self.image_format = image_format
        self.min_box_side = min_box_side
        logger.info(f"{'training' if is_train else 'test'} augmentations: {self.augmentations}")

    def __call__(self, record):
        """Args: record, left unchanged. Raises: UnreadableImage."""
        record = dict(record)
        annotations = record.pop("annotations", ())
        image = read_image(record, self.image_format)
        if not self.is_train:
            aug_input = T.AugInput(image)
            self.augmentations(aug_input)
            record["image"] = _to_tensor(aug_input.image)
            return record
        annotations = [a for a in annotations if not a.get("iscrowd", 0)]
        aug_input = _TrackedInput(image, _xyxy(annotations))
        self.augmentations(aug_input)
        record["image"] = _to_tensor(aug_input.image)
        record["content"] = tuple(aug_input.content.tolist())
        record["instances"] = to_instances(
            aug_input.boxes, [a["category_id"] for a in annotations], aug_input.image.shape[:2], self.min_box_side
        )
        return record


def read_image(record, image_format, fast=False):
    """(H, W, 3) uint8, turned by its EXIF orientation; fills in width and height where the record has none.

    Args:
        record: with `file_name`.
        image_format: "BGR" or "RGB".
        fast: decode ordinary JPEG files by OpenCV, not as Detectron2 does by Pillow.
    Raises:
        UnreadableImage.
    """
    path = record["file_name"]
    try:
        image, order = _decode(path, fast)
        detection_utils.check_image_size(record, image)
    except MemoryError:
        raise
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise UnreadableImage(path, f"{type(error).__name__}: {error}") from error
    return image if order == image_format else cv2.cvtColor(image, cv2.COLOR_RGB2BGR)  # which swaps either way


def _decode(path, fast):
    """Returns an image and its channel order."""
    if fast:
        with open(path, "rb") as file:
            image = decode_jpeg(file.read())
        if image is not None:
            return image, "BGR"
    return detection_utils.read_image(path, format="RGB"), "RGB"


def _xyxy(annotations):
    """(n, 4) float64."""
    boxes = [to_xywh(a["bbox"], a["bbox_mode"]) for a in annotations]
    boxes = np.array(boxes, dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _to_tensor(image):
    return torch.as_tensor(np.ascontiguousarray(image.transpose(2, 0, 1)))


def to_instances(boxes, classes, image_size, min_box_side=1e-5) -> Instances:
    """Args: boxes (n, 4) XYXY, classes n, image_size (height, width). Returns what is left inside the image."""
    instances = Instances(tuple(image_size))
    instances.gt_boxes = Boxes(torch.as_tensor(np.asarray(boxes), dtype=torch.float32).reshape(-1, 4))
    instances.gt_classes = torch.as_tensor(classes, dtype=torch.int64)
    instances.gt_boxes.clip(instances.image_size)
    return instances[instances.gt_boxes.nonempty(threshold=min_box_side)]
