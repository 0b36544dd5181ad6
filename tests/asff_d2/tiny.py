"""An ASFF small enough for tests: three convolutions for a pyramid, the fusion, narrow heads."""

from asff_d2.anchors import Anchors
from asff_d2.asff import ASFF
from asff_d2.fusion import ASFFNeck
from asff_d2.head import GuidedYOLOHead

import torch
from detectron2.modeling import Backbone
from detectron2.structures import Boxes, Instances
from torch import nn

PRIORS = (
    ((10, 13), (16, 30), (33, 23)),
    ((30, 61), (62, 45), (42, 119)),
    ((116, 90), (156, 198), (121, 240)),
)


class TinyPyramid(Backbone):
    """One convolution a level; `channels`: name -> (stride, channels)."""

    def __init__(self, channels=None):
        super().__init__()
        levels = channels or {"p3": (8, 8), "p4": (16, 8), "p5": (32, 8)}
        self.convs = nn.ModuleDict({name: nn.Conv2d(3, c, s, stride=s) for name, (s, c) in levels.items()})
        self._out_features = list(levels)
        self._out_feature_strides = {name: s for name, (s, _) in levels.items()}
        self._out_feature_channels = {name: c for name, (_, c) in levels.items()}

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        return {name: conv(x) for name, conv in self.convs.items()}


def tiny_asff(num_classes=3, fusion="asff", free_slot=True, guided_anchor=True, uniform_start=False, seed=0, **kwargs):
    torch.manual_seed(seed)
    neck = ASFFNeck(bottom_up=TinyPyramid(), fusion=fusion, compress_channels=4, uniform_start=uniform_start)
    head = GuidedYOLOHead(
        in_channels=[8, 8, 8],
        num_classes=num_classes,
        free_slot=free_slot,
        guided_anchor=guided_anchor,
        deformable_groups=4 if free_slot else 2,
    )
    return ASFF(
        backbone=neck,
        head=head,
        anchors=Anchors(priors=PRIORS, strides=(8, 16, 32), free_slot=free_slot),
        num_classes=num_classes,
        pixel_mean=[120.0, 115.0, 100.0],
        pixel_std=[58.0, 57.0, 57.0],
        input_format="RGB",
        **kwargs,
    )


def instances(boxes, classes, size, weights=None):
    result = Instances(size)
    result.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.gt_classes = torch.tensor(classes, dtype=torch.int64)
    if weights is not None:
        result.gt_weights = torch.tensor(weights, dtype=torch.float32)
    return result


def batch(*annotations, size=(64, 96)):
    """One image of `size` per (boxes, classes[, weights])."""
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8),
            "instances": instances(*annotation[:2], size, *annotation[2:]),
        }
        for annotation in annotations
    ]
