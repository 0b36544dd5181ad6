"""A YOLOX small enough for tests: three maps from one convolution each, a narrow head."""

from yolox_d2.box_coder import GridBoxCoder
from yolox_d2.head import CoupledHead, YOLOXHead
from yolox_d2.simota import SimOTA
from yolox_d2.yolox import YOLOX

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

STRIDES = (8, 16, 32)


class TinyPyramid(Backbone):
    def __init__(self, channels=8):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, channels, stride, stride) for stride in STRIDES)
        self.channels = channels

    def forward(self, x):
        return {f"p{i}": conv(x / 255) for i, conv in enumerate(self.convs, start=3)}

    def output_shape(self):
        return {f"p{i}": ShapeSpec(channels=self.channels, stride=stride) for i, stride in enumerate(STRIDES, start=3)}


def tiny_head(num_classes=3, **kwargs):
    return YOLOXHead(in_channels=[8, 8, 8], channels=8, num_classes=num_classes, **kwargs)


def tiny_coupled_head(num_classes=3):
    return CoupledHead(in_channels=[8, 8, 8], num_classes=num_classes, num_anchors=1)


def tiny_yolox(num_classes=3, head=None, **kwargs):
    torch.manual_seed(0)
    options = dict(
        backbone=TinyPyramid(),
        head=head or tiny_head(num_classes),
        num_classes=num_classes,
        assigner=SimOTA(),
        box_coder=GridBoxCoder(),
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    )
    return YOLOX(**{**options, **kwargs})
