"""A YOLOF small enough for tests: one convolution of stride 32 for a backbone, a narrow head."""

from yolof_d2.box_coder import CenterClampBox2BoxTransform
from yolof_d2.decoder import YOLOFDecoder
from yolof_d2.encoder import DilatedEncoder
from yolof_d2.head import YOLOFHead
from yolof_d2.uniform_matcher import UniformMatcher
from yolof_d2.yolof import YOLOF

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import Backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, Instances
from torch import nn

SIZES = (32, 64, 128)


class TinyBackbone(Backbone):
    def __init__(self, channels=8):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, kernel_size=32, stride=32)
        self.channels = channels

    def forward(self, x):
        return {"res5": self.conv(x / 255)}

    def output_shape(self):
        return {"res5": ShapeSpec(channels=self.channels, stride=32)}


def tiny_yolof(num_classes=3, matcher=None, **kwargs):
    torch.manual_seed(0)
    encoder = DilatedEncoder(in_channels=8, channels=16, block_mid_channels=8, block_dilations=(1, 2))
    decoder = YOLOFDecoder(in_channels=16, num_classes=num_classes, num_anchors=len(SIZES))
    return YOLOF(
        backbone=TinyBackbone(),
        head=YOLOFHead(encoder=encoder, decoder=decoder),
        anchor_generator=DefaultAnchorGenerator(sizes=[SIZES], aspect_ratios=[[1.0]], strides=[32], offset=0.0),
        box2box_transform=CenterClampBox2BoxTransform(),
        matcher=matcher or UniformMatcher(),
        num_classes=num_classes,
        pixel_mean=[100.0, 110.0, 120.0],
        pixel_std=[1.0, 1.0, 1.0],
        **kwargs,
    )


def instances(boxes, classes, size=(96, 128)):
    result = Instances(size)
    result.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    result.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return result


def batch(*annotations):
    """One image of 96 x 128 per (boxes, classes)."""
    generator = torch.Generator().manual_seed(1)
    return [
        {
            "image": torch.randint(0, 256, (3, 96, 128), generator=generator, dtype=torch.uint8),
            "instances": instances(boxes, classes),
            "height": 96,
            "width": 128,
        }
        for boxes, classes in annotations
    ]
