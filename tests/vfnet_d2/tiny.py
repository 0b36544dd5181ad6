"""A VFNet small enough for tests: five maps from one convolution each, a narrow head."""

from vfnet_d2.atss import ATSSAssigner
from vfnet_d2.head import VFNetHead
from vfnet_d2.points import PointGrid
from vfnet_d2.varifocal_loss import VarifocalLoss
from vfnet_d2.vfnet import VFNet

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from torch import nn

STRIDES = (8, 16, 32, 64, 128)
NAMES = ("p3", "p4", "p5", "p6", "p7")


class TinyPyramid(Backbone):
    """Maps of ceil(size / stride) cells."""

    def __init__(self, channels=32):
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3, channels, 3, stride, padding=1) for stride in STRIDES)
        self.channels = channels

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        return {name: conv(x / 255) for name, conv in zip(NAMES, self.convs)}

    def output_shape(self):
        return {name: ShapeSpec(channels=self.channels, stride=stride) for name, stride in zip(NAMES, STRIDES)}


def tiny_head(num_classes=3, **kwargs):
    torch.manual_seed(0)
    return VFNetHead(**{**dict(in_channels=32, feat_channels=32, num_convs=1, num_classes=num_classes), **kwargs})


def tiny_vfnet(num_classes=3, head=None, **kwargs):
    torch.manual_seed(0)
    options = dict(
        backbone=TinyPyramid(),
        head=head or tiny_head(num_classes),
        assigner=ATSSAssigner(),
        cls_loss=VarifocalLoss(),
        num_classes=num_classes,
        pixel_mean=[0.0, 0.0, 0.0],
        pixel_std=[1.0, 1.0, 1.0],
    )
    return VFNet(**{**options, **kwargs})


def make_grid(image_sizes, strides=STRIDES, offset=0.0, batch_size=None):
    """PointGrid of images (height, width), padded to `batch_size` or the largest of them."""
    height, width = batch_size or (max(sides) for sides in zip(*image_sizes))
    height, width = -(-height // 32) * 32, -(-width // 32) * 32
    maps = [torch.zeros(1, 1, -(-height // stride), -(-width // stride)) for stride in strides]
    return PointGrid.of(maps, strides, image_sizes, offset)
