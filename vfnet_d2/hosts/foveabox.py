"""FoveaBox as a host of the varifocal loss: no anchors and no centerness, boxes by the logarithms of their distances.

Source: FoveaBox (Kong et al., IEEE TIP 2020) as mmdetection has it, without feature alignment; VarifocalNet, Table 5. In the
released code of the latter, boxes are cut to the size of the batch's first image before their IoU is taken; here each is cut
to its own image.

Shapes: N images, C channels, Hi x Wi the map of level i, R locations over all levels, K classes. Boxes are XYXY, distances
are (left, top, right, bottom), both in pixels of the network input.
"""

from collections import OrderedDict

from dense_d2.errors import UserError
from dense_d2.modeling.dense_detector import log_scalar

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from ..head import VFNetPredictions, init_head
from ..points import broadcast_iou, ltrb_to_boxes
from ..vfnet import MIN_QUALITY, VFNet, flatten

__all__ = ["FoveaBox", "FoveaHead"]

MAX_RATIO = 16
"""Distances count as at most this much more or less than the level's base length."""


class FoveaHead(nn.Module):
    """Maps a list of feature maps to `VFNetPredictions`, with neither refined boxes nor centerness."""

    def __init__(
        self,
        *,
        in_channels=256,
        feat_channels=256,
        num_convs=4,
        num_classes=80,
        strides=(8, 16, 32, 64, 128),
        base_lengths=(16, 32, 64, 128, 256),
        prior_prob=0.01,
    ):
        """
        Args:
            in_channels: of every feature map.
            feat_channels: C.
            num_convs: 3x3 convolutions in each tower.
            num_classes: K.
            strides: pixels a cell, one a level.
            base_lengths: unit of the distances, pixels, one a level.
            prior_prob: score of every class before training.
        """
        super().__init__()
        if len(base_lengths) != len(strides):
            raise ValueError(
                f"base_lengths has {len(base_lengths)} entries for {len(strides)} strides; give one a level"
            )
        self.strides, self.base_lengths, self.num_classes = tuple(strides), tuple(base_lengths), num_classes
        self.cls_convs = _plain_tower(in_channels, feat_channels, num_convs)
        self.reg_convs = _plain_tower(in_channels, feat_channels, num_convs)
        self.conv_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.conv_reg = nn.Conv2d(feat_channels, 4, 3, padding=1)
        init_head(self, self.conv_cls, prior_prob)

    def forward(self, features):
        """Args: features, a list of (N, C, Hi, Wi)."""
        if len(features) != len(self.strides):
            raise ValueError(f"the head has {len(self.strides)} strides but got {len(features)} feature maps")
        logits = [self.conv_cls(self.cls_convs(x)) for x in features]
        exponents = [self.conv_reg(self.reg_convs(x)) for x in features]
        with torch.autocast(device_type=features[0].device.type, enabled=False):
            ltrb = [exponent.float().exp() * base for exponent, base in zip(exponents, self.base_lengths)]
        return VFNetPredictions(logits, ltrb, None, None)


def _plain_tower(in_channels, channels, num_convs):
    """3x3 convolutions with bias, each with a ReLU."""
    convs = [nn.Conv2d(in_channels if i == 0 else channels, channels, 3, padding=1) for i in range(num_convs)]
    return nn.Sequential(*(nn.Sequential(OrderedDict(conv=conv, activation=nn.ReLU(inplace=True))) for conv in convs))


@META_ARCH_REGISTRY.register()
class FoveaBox(VFNet):
    """Inference is that of `VFNet`, on boxes cut to the image's pixels. Built from LazyConfig only: there are no yacs keys."""

    class_layers = ("head.conv_cls.",)

    @configurable
    def __init__(self, *, box_loss_weight=1.0, smooth_l1_beta=0.11, test_nms_thresh=0.5, **kwargs):
        """
        Args:
            kwargs: see `VFNet`; head: FoveaHead, assigner: see `FoveaAssigner`.
            smooth_l1_beta: error of a logarithm from which on its loss is linear.
        """
        super().__init__(box_loss_weight=box_loss_weight, test_nms_thresh=test_nms_thresh, **kwargs)
        self.smooth_l1_beta = smooth_l1_beta

    @classmethod
    def from_config(cls, cfg):
        raise UserError("FoveaBox has no yacs keys: build it from configs/common/models/foveabox.py")

    def forward_training(self, images, features, predictions, gt_instances):
        """Returns the losses; assignment, decoding and losses run in float32."""
        grid = self.make_grid(predictions, images.image_sizes)
        with torch.autocast(device_type=grid.points.device.type, enabled=False):
            logits, ltrb, _, _ = flatten(predictions)
            gt_labels, gt_boxes = self.label_points(grid, gt_instances)
            units = grid.of_levels(self.head.base_lengths)
            return self.losses(grid.points, units, logits, ltrb, gt_labels, gt_boxes, images.image_sizes)

    def losses(self, points, units, logits, ltrb, gt_labels, gt_boxes, image_sizes):
        """
        Args:
            points: (R, 2).
            units: (R,) base length of the location's level, pixels.
            logits: (N, R, K) float32.
            ltrb: (N, R, 4) float32.
            gt_labels, gt_boxes: see `label_points`.
            image_sizes: (height, width) of each image without padding.
        Returns:
            dict of "loss_cls", divided by the number of foreground locations plus that of images, and "loss_box_reg",
            divided by the number of foreground locations; as released, both are those of this rank.
        """
        is_fg = (gt_labels >= 0) & (gt_labels < self.num_classes)
        num_fg = is_fg.sum()
        log_scalar("num_fg_per_image", num_fg / len(is_fg))
        # masks instead of indices: nothing waits for the device
        units, is_fg = units[:, None], is_fg[..., None]
        ltrb = torch.where(is_fg, ltrb, units)
        gt_ltrb = torch.cat([points - gt_boxes[..., :2], gt_boxes[..., 2:] - points], dim=-1)
        gt_logs = (torch.where(is_fg, gt_ltrb, units) / units).clamp(1 / MAX_RATIO, MAX_RATIO).log()
        error = F.smooth_l1_loss((ltrb / units).log(), gt_logs, beta=self.smooth_l1_beta, reduction="sum")

        boxes = ltrb_to_boxes(points, ltrb.detach())
        boxes = torch.stack([_cut(*pair) for pair in zip(boxes, image_sizes)])
        quality = broadcast_iou(boxes, gt_boxes).clamp(min=MIN_QUALITY) * is_fg.squeeze(-1)
        return {
            "loss_cls": self.cls_loss(logits, gt_labels, quality) / (num_fg + len(logits)),
            "loss_box_reg": self.box_loss_weight * error / num_fg.clamp(min=1),
        }

    def predict_dense(self, images, predictions):
        """See `VFNet`."""
        dense = super().predict_dense(images, predictions)
        return [d._replace(boxes=_cut(d.boxes, size)) for d, size in zip(dense, images.image_sizes)]


def _cut(boxes, image_size):
    """Boxes (R, 4) cut to the centres of an image's last pixels, one less than its height and width."""
    height, width = image_size
    return clip_boxes_to_image(boxes, (height - 1, width - 1))
