"""ATSS as a host of the varifocal loss: anchors, a centerness branch, and VFNet's assignment, losses and inference.

Source: ATSS (Zhang et al., CVPR 2020) as mmdetection has it; VarifocalNet, Table 5. The centerness stays whatever the
classification loss: it weighs the boxes, and multiplies the scores at test.

Shapes: N images, C channels, Hi x Wi the map of level i, R locations over all levels, K classes.
"""

import math

from dense_d2.errors import UserError

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

from ..head import VFNetPredictions, conv_tower, init_head, level_scales
from ..vfnet import VFNet

__all__ = ["ATSS", "ATSSHead", "deltas_to_ltrb"]

MAX_LOG_RATIO = math.log(1000 / 16)
"""A box is at most this much, as a logarithm, larger or smaller than its anchor."""


class ATSSHead(nn.Module):
    """Maps a list of feature maps to `VFNetPredictions`, with centerness and without refined boxes.

    The square anchor of a location becomes its box by Faster R-CNN's deltas; what is handed out are distances, as VFNet's.
    """

    def __init__(
        self,
        *,
        in_channels=256,
        feat_channels=256,
        num_convs=4,
        num_classes=80,
        strides=(8, 16, 32, 64, 128),
        anchor_scale=8,
        delta_weights=(10.0, 10.0, 5.0, 5.0),
        norm="GN",
        prior_prob=0.01,
    ):
        """
        Args:
            in_channels: of every feature map.
            feat_channels: C; GroupNorm wants a multiple of 32.
            num_convs: blocks in each tower.
            num_classes: K.
            strides: pixels a cell, one a level.
            anchor_scale: side of the square anchor at every location, in strides.
            delta_weights: divisors of the deltas, see `deltas_to_ltrb`.
            norm: of every block, see `detectron2.layers.get_norm`.
            prior_prob: score of every class before training.
        """
        super().__init__()
        self.strides, self.num_classes = tuple(strides), num_classes
        self.anchor_scale, self.delta_weights = anchor_scale, tuple(delta_weights)
        self.cls_convs = conv_tower(in_channels, feat_channels, num_convs, norm)
        self.reg_convs = conv_tower(in_channels, feat_channels, num_convs, norm)
        self.atss_cls = nn.Conv2d(feat_channels, num_classes, 3, padding=1)
        self.atss_reg = nn.Conv2d(feat_channels, 4, 3, padding=1)
        self.atss_centerness = nn.Conv2d(feat_channels, 1, 3, padding=1)
        self.scales = level_scales(self.strides)
        init_head(self, self.atss_cls, prior_prob)

    def forward(self, features):
        """Args: features, a list of (N, C, Hi, Wi)."""
        if len(features) != len(self.strides):
            raise ValueError(f"the head has {len(self.strides)} strides but got {len(features)} feature maps")
        logits, ltrb, centerness = zip(*(self._forward_level(x, i) for i, x in enumerate(features)))
        return VFNetPredictions(list(logits), list(ltrb), None, list(centerness))

    def _forward_level(self, x, level):
        cls_features, reg_features = self.cls_convs(x), self.reg_convs(x)
        deltas = self.atss_reg(reg_features)
        with torch.autocast(device_type=x.device.type, enabled=False):
            side = self.anchor_scale * self.strides[level]
            ltrb = deltas_to_ltrb(self.scales[level] * deltas.float(), side, self.delta_weights)
        return self.atss_cls(cls_features), ltrb, self.atss_centerness(reg_features)


def deltas_to_ltrb(deltas, side, weights):
    """The boxes that Faster R-CNN's deltas make of square anchors, as distances from the anchors' centres.

    Args:
        deltas: (N, 4, H, W): shift of the centre right and down, in sides of the anchor; logarithms of width and height, in
            sides of the anchor; each times its weight.
        side: of the anchors, pixels.
        weights: of the four deltas; inverses of mmdetection's standard deviations.
    Returns:
        (N, 4, H, W), distances to the left, top, right and bottom side, pixels; may be negative.
    """
    shift = torch.stack([deltas[:, 0] / weights[0], deltas[:, 1] / weights[1]], dim=1) * side
    log_ratio = torch.stack([deltas[:, 2] / weights[2], deltas[:, 3] / weights[3]], dim=1)
    half = log_ratio.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp() * (side / 2)
    return torch.cat([half - shift, half + shift], dim=1)


@META_ARCH_REGISTRY.register()
class ATSS(VFNet):
    """Losses, assignment and inference are those of a `VFNet` whose head has centerness.

    The released code divides the boxes' loss by the sum of the centerness without VFNet's floor of 1, which matters only
    where the batch has less than about two positives a GPU. Built from LazyConfig only: there are no yacs keys.
    """

    class_layers = ("head.atss_cls.",)

    @configurable
    def __init__(self, *, box_loss_weight=2.0, **kwargs):
        """Args: see `VFNet`; head: ATSSHead."""
        super().__init__(box_loss_weight=box_loss_weight, **kwargs)

    @classmethod
    def from_config(cls, cfg):
        raise UserError("ATSS has no yacs keys: build it from configs/common/models/atss.py")

    def count_foreground(self, is_fg):
        """An image without foreground counts as 1."""
        return is_fg.sum(dim=1).clamp(min=1).sum()
