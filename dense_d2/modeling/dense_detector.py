"""Base class of the one-stage detectors: input batching, shared steps of inference, and what the engine asks for.

Source: Detectron2's `DenseDetector`: preprocess, backbone, head, train or infer, rescale.

Shapes: N images, R anchors or points over all levels, K classes, n candidate detections.
Boxes are XYXY in pixels of the network input.
"""

from typing import Tuple

from dense_d2.compat import batch_images
from dense_d2.modeling.frozen_norm import fold_frozen_norms

import torch
import torch.distributed as dist
from detectron2.layers import batched_nms
from detectron2.modeling.meta_arch.dense_detector import DenseDetector as _DenseDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import nn

__all__ = ["DenseDetector", "feature_shapes", "log_scalar", "mean_over_ranks", "select_candidates", "select_detections"]

LOG_PERIOD = 20  # of Detectron2's writers, which look at the storage every 20 iterations


def feature_shapes(backbone, names):
    """ShapeSpecs of the maps that a head takes, in order. Raises ValueError for no names, or one the backbone has not."""
    shapes = backbone.output_shape()
    if not names or not set(names) <= set(shapes):
        raise ValueError(f"head_in_features is {names}, but the backbone gives {list(shapes)}; list names of these")
    return [shapes[name] for name in names]


class DenseDetector(_DenseDetector):
    """A fully convolutional detector.

    Subclasses give `forward_training(images, features, predictions, gt_instances)`, which returns the losses, and
    `forward_inference(images, features, predictions)`, which returns one `Instances` an image. Matching, decoding and
    losses run in float32, inside `torch.autocast(device_type=..., enabled=False)`.
    """

    class_layers: Tuple[str, ...] = ()
    """state_dict prefixes of the layers whose shape depends on the number of classes."""

    released_formats: Tuple = ()
    """Functions state_dict -> the same tensors under our names, or None if the names are not those of their format."""

    def __init__(
        self,
        *,
        backbone,
        head,
        head_in_features=None,
        num_classes,
        pixel_mean,
        pixel_std,
        input_format="BGR",
        test_score_thresh,
        test_nms_thresh,
        test_topk_candidates,
        max_detections_per_image,
        pad_value=None,
        clip_boxes=True,
        channels_last=True,
    ):
        """
        Args:
            backbone: Detectron2 `Backbone`.
            head: module; takes the list of feature maps `head_in_features`, high resolution first.
            head_in_features: names of backbone outputs; all of them by default.
            num_classes: K.
            pixel_mean, pixel_std: one number a channel, in the order of `input_format`.
            input_format: channel order of `image`, "BGR" or "RGB".
            test_score_thresh: (anchor, class) pairs with a lower score are no candidates.
            test_nms_thresh: IoU above which the lower of two detections of a class is dropped.
            test_topk_candidates: how many candidates go on to NMS.
            max_detections_per_image: how many detections are kept after NMS.
            pad_value: pixel value of the padding, in the unit of `image`; None for the mean colour.
            clip_boxes: cut detections to the image and drop those outside of it, as Detectron2 does. The YOLO family
                is evaluated without.
            channels_last: lay feature maps out as channels_last, which is as fast or faster; changes speed only.
        """
        for name, thresh in (("test_score_thresh", test_score_thresh), ("test_nms_thresh", test_nms_thresh)):
            if not 0 <= thresh <= 1:
                raise ValueError(f"{name} is {thresh}; give a number from 0 to 1")
        if min(test_topk_candidates, max_detections_per_image) < 1:
            raise ValueError(
                f"test_topk_candidates is {test_topk_candidates} and max_detections_per_image {max_detections_per_image}; "
                "give at least 1"
            )
        if len(pixel_mean) != len(pixel_std) or min(pixel_std) <= 0:
            raise ValueError(
                f"pixel_mean is {list(pixel_mean)} and pixel_std {list(pixel_std)}; give one number a channel, to the "
                "latter above 0"
            )
        if head_in_features is not None:
            feature_shapes(backbone, head_in_features)
        super().__init__(
            fold_frozen_norms(backbone),
            head,
            None if head_in_features is None else list(head_in_features),
            pixel_mean=list(pixel_mean),
            pixel_std=list(pixel_std),
        )
        self.num_classes = num_classes
        self.input_format = input_format
        self.test_score_thresh = test_score_thresh
        self.test_nms_thresh = test_nms_thresh
        self.test_topk_candidates = test_topk_candidates
        self.max_detections_per_image = max_detections_per_image
        self.pad_value = pad_value
        self.clip_boxes = clip_boxes
        self.channels_last = channels_last

    def require_strides(self, strides, setting):
        """Raises ValueError unless the maps that the head takes have these strides. Args: setting, their name in a config."""
        found = [shape.stride for shape in feature_shapes(self.backbone, self.head_in_features)]
        if found != list(strides):
            raise ValueError(
                f"head_in_features is {self.head_in_features} with strides {found}, but {setting} is {list(strides)}; make "
                "them equal"
            )

    def forward(self, batched_inputs):
        """
        Args:
            batched_inputs: list of N dicts with `image` (C, H, W) in 0..255; for training `instances` with `gt_boxes` and
                `gt_classes`; for inference `height` and `width` of the original image, if boxes are to fit that.
        Returns:
            training: dict of losses. Inference: list of N {"instances": Instances} with `pred_boxes` in pixels of the
            original image, `scores` in [0, 1] and `pred_classes`.
        """
        if self.training:
            # before the network: a copy to the device waits for all it has been given to do
            gt_instances = [sample["instances"].to(self.device) for sample in batched_inputs]
            return self.forward_training(*self.predict(batched_inputs), gt_instances)
        results = self.forward_inference(*self.predict(batched_inputs))
        return [{"instances": self.to_original_image(*pair)} for pair in zip(results, batched_inputs)]

    def predict(self, batched_inputs):
        """Returns the images (ImageList), the feature maps that the head takes, and what it says of them."""
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        features = [features[name] for name in self.head_in_features]
        return images, features, self.head(features)

    def to_original_image(self, result, sample):
        """Detections in pixels of the network input -> in those of the original image of `sample`."""
        height, width = (sample.get(key, side) for key, side in zip(("height", "width"), result.image_size))
        if self.clip_boxes:
            return detector_postprocess(result, height, width)
        scaled = Instances((height, width), **result.get_fields())
        scaled.pred_boxes = result.pred_boxes.clone()
        scaled.pred_boxes.scale(width / result.image_size[1], height / result.image_size[0])
        return scaled

    def preprocess_image(self, batched_inputs):
        """Pads the images, bottom and right, and normalises them."""
        images = [x["image"].to(self.device) for x in batched_inputs]
        if self.pad_value is None:
            images = [(image - self.pixel_mean) / self.pixel_std for image in images]
            images = batch_images(images, self.backbone, pad_value=0.0)
        else:
            images = batch_images(images, self.backbone, pad_value=self.pad_value)
            images.tensor = (images.tensor - self.pixel_mean) / self.pixel_std
        images.tensor = self.to_memory_format(images.tensor)
        return images

    def to_memory_format(self, tensor):
        """(N, C, H, W) as channels_last, in the two cases below as it is."""
        on_cpu = self.training and not tensor.is_cuda
        if not self.channels_last or (on_cpu and any(map(_overruns_in_channels_last, self.modules()))):
            return tensor
        return tensor.contiguous(memory_format=torch.channels_last)


def _overruns_in_channels_last(module):
    """Whether the gradient of this layer's weights may be written past its buffer, by oneDNN on a CPU.

    Seen with oneDNN 3.11 (torch 2.12.1): a strided 1x1 convolution of 5 to 15 channels corrupts the heap.
    """
    return (
        isinstance(module, nn.Conv2d)
        and module.kernel_size == (1, 1)
        and max(module.stride) > 1
        and module.in_channels < 16
    )


def select_candidates(scores, score_thresh, topk):
    """Picks the (anchor, class) pairs that are worth decoding.

    Args:
        scores: (R, K) in [0, 1].
        score_thresh: pairs must score more.
        topk: the most pairs to keep.
    Returns:
        scores (n,) in descending order, anchor_idxs (n,), class_idxs (n,).
    """
    num_classes = scores.shape[1]
    scores = scores.flatten()
    idxs = (scores > score_thresh).nonzero().squeeze(1)
    scores, order = scores[idxs].topk(min(topk, idxs.numel()))
    idxs = idxs[order]
    return scores, idxs // num_classes, idxs % num_classes


def select_detections(boxes, scores, classes, image_size, *, nms_thresh, max_detections):
    """Class-wise NMS, then the best detections. Boxes are not clipped: `detector_postprocess` does that.

    Args:
        boxes: (n, 4).
        scores, classes: (n,).
        image_size: (height, width) of the network input without padding.
    Returns:
        Instances with `pred_boxes`, `scores` (descending) and `pred_classes`.
    """
    keep = batched_nms(boxes, scores, classes, nms_thresh)[:max_detections]
    return Instances(image_size, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep])


def mean_over_ranks(value):
    """Mean of a tensor over all processes. Every rank has to call it, whatever its images hold."""
    world_size = comm.get_world_size()
    if world_size > 1:
        value = value.detach().clone()
        dist.all_reduce(value)
        value /= world_size
    return value


def log_scalar(name, value):
    """Hands a number to Detectron2's event storage, if one is active, at the iterations that its writers write.

    Reading a tensor makes the host wait for the device, so other iterations leave it alone.
    """
    try:
        storage = get_event_storage()
    except AssertionError:  # how both versions of Detectron2 say that there is none
        return
    if (storage.iter + 1) % LOG_PERIOD == 0:
        storage.put_scalar(name, value)
