"""The heads of YOLOX: decoupled, and the coupled one of YOLOv3 that the paper starts from.

Source: YOLOX, section 2.1, "Decoupled head" and Fig. 2; "End-to-end YOLO" for the selector.

Shapes: N images, C channels of a level, H x W its map, A anchors a cell, K classes. Channels of outputs are anchor-major.
"""

from typing import List, NamedTuple, Optional

from dense_d2.modeling.layers import bias_of

import torch
from torch import nn

from .cspdarknet import block_factory

__all__ = ["CoupledHead", "HeadOutputs", "YOLOXHead"]


class HeadOutputs(NamedTuple):
    """Raw predictions, one tensor a level."""

    deltas: List[torch.Tensor]  # (N, A*4, H, W)
    obj_logits: List[torch.Tensor]  # (N, A, H, W)
    cls_logits: List[torch.Tensor]  # (N, A*K, H, W)
    select_logits: Optional[List[torch.Tensor]] = None  # (N, A, H, W), of detectors without NMS


class Selector(nn.Module):
    """Two 3x3 blocks and a 1x1 convolution that choose one prediction an object. Nothing flows back into `x`.

    Source: Zhou et al. 2021, "Object Detection Made Simpler by Eliminating Heuristic NMS", as YOLOX's Table 2 uses it.
    """

    def __init__(self, channels, num_anchors, block):
        super().__init__()
        self.convs = nn.Sequential(block(channels, channels, 3), block(channels, channels, 3))
        self.pred = nn.Conv2d(channels, num_anchors, 1)

    def forward(self, x):
        return self.pred(self.convs(x.detach()))


class YOLOXHead(nn.Module):
    """A tower for the classes, and one for box and objectness; levels share no weights."""

    def __init__(
        self,
        *,
        in_channels,
        channels=256,
        width=1.0,
        num_classes,
        num_anchors=1,
        selector=False,
        depthwise=False,
        norm="BN",
        norm_eps=1e-3,
        norm_momentum=0.03,
        activation="SiLU",
        prior_prob=0.01,
    ):
        """
        Args:
            in_channels: C of every level, at width 1.
            channels: of the towers, at width 1.
            width: factor on both.
            num_classes: K.
            num_anchors: A.
            selector: add the branch of a detector without NMS, on the features of the box tower.
            depthwise, norm, norm_eps, norm_momentum, activation: see `block_factory`.
            prior_prob: objectness and class probability at initialisation.
        """
        super().__init__()
        self.num_classes, self.num_anchors = num_classes, num_anchors
        width = int(64 * width) / 64  # whole units, as the backbone has them
        in_channels, channels = [int(level * width) for level in in_channels], int(channels * width)
        self.in_channels = in_channels
        plain, spatial = block_factory(
            depthwise=depthwise, norm=norm, norm_eps=norm_eps, norm_momentum=norm_momentum, activation=activation
        )

        def towers():
            return nn.ModuleList(
                nn.Sequential(spatial(channels, channels, 3), spatial(channels, channels, 3)) for _ in in_channels
            )

        def predictions(numbers):
            return nn.ModuleList(nn.Conv2d(channels, num_anchors * numbers, 1) for _ in in_channels)

        self.stems = nn.ModuleList(plain(level, channels, 1) for level in in_channels)
        self.cls_convs, self.reg_convs = towers(), towers()
        self.cls_preds, self.reg_preds, self.obj_preds = predictions(num_classes), predictions(4), predictions(1)
        self.selectors = (
            nn.ModuleList(Selector(channels, num_anchors, spatial) for _ in in_channels) if selector else None
        )
        for layer in [*self.cls_preds, *self.obj_preds]:
            nn.init.constant_(layer.bias, bias_of(prior_prob))

    def forward(self, features):
        """list of (N, C, H, W), high resolution first -> HeadOutputs."""
        deltas, obj_logits, cls_logits, select_logits = [], [], [], []
        for level, feature in enumerate(features):
            feature = self.stems[level](feature)
            cls_logits.append(self.cls_preds[level](self.cls_convs[level](feature)))
            feature = self.reg_convs[level](feature)
            deltas.append(self.reg_preds[level](feature))
            obj_logits.append(self.obj_preds[level](feature))
            if self.selectors is not None:
                select_logits.append(self.selectors[level](feature))
        return HeadOutputs(deltas, obj_logits, cls_logits, select_logits or None)


class CoupledHead(nn.Module):
    """YOLOv3's head: a 3x3 block to twice the channels and one 1x1 convolution for everything.

    The selector, where there is one, stands on the features of the 3x3 block (YOLOX, Table 1; the paper does not say
    where).
    """

    def __init__(
        self,
        *,
        in_channels,
        num_classes,
        num_anchors=3,
        selector=False,
        norm="BN",
        norm_eps=1e-3,
        norm_momentum=0.03,
        activation="LeakyReLU",
        prior_prob=0.01,
    ):
        """Args: see `YOLOXHead`."""
        super().__init__()
        self.num_classes, self.num_anchors = num_classes, num_anchors
        self.in_channels = list(in_channels)
        block, _ = block_factory(norm=norm, norm_eps=norm_eps, norm_momentum=norm_momentum, activation=activation)
        self.convs = nn.ModuleList(block(level, 2 * level, 3) for level in in_channels)
        self.preds = nn.ModuleList(nn.Conv2d(2 * level, num_anchors * (5 + num_classes), 1) for level in in_channels)
        self.selectors = (
            nn.ModuleList(Selector(2 * level, num_anchors, block) for level in in_channels) if selector else None
        )
        for pred in self.preds:
            bias = pred.bias.data.view(num_anchors, 5 + num_classes)
            nn.init.constant_(bias[:, 4:], bias_of(prior_prob))

    def forward(self, features):
        """See `YOLOXHead.forward`."""
        outputs, select_logits = [], []
        for level, feature in enumerate(features):
            feature = self.convs[level](feature)
            pred = self.preds[level](feature)
            pred = pred.view(len(pred), self.num_anchors, 5 + self.num_classes, *pred.shape[-2:])
            outputs.append([part.flatten(1, 2) for part in pred.split([4, 1, self.num_classes], dim=2)])
            if self.selectors is not None:
                select_logits.append(self.selectors[level](feature))
        return HeadOutputs(*(list(parts) for parts in zip(*outputs)), select_logits or None)
