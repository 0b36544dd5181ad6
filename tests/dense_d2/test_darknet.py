"""Width and depth of the Darknet trunk and YOLOv3's neck. Names and sizes of the published ones: tests/parity, tests/yolox_d2."""

from dense_d2.modeling.darknet import Darknet53
from dense_d2.modeling.yolov3_fpn import YOLOv3FPN

import torch


def test_thin_trunk_and_neck():
    trunk = Darknet53(base_channels=4, num_blocks=(1, 0, 2, 1, 1))
    neck = YOLOv3FPN(bottom_up=trunk, channels=8)
    outputs = neck(torch.zeros(1, 3, 64, 96))
    assert {name: tuple(x.shape[1:]) for name, x in outputs.items()} == {
        "p3": (8, 8, 12),
        "p4": (16, 4, 6),
        "p5": (32, 2, 3),
    }
    assert {name: shape.channels for name, shape in neck.output_shape().items()} == {"p3": 8, "p4": 16, "p5": 32}
    assert [len(getattr(trunk, f"dark{i}")) - 1 for i in range(1, 6)] == [1, 0, 2, 1, 1]
    assert trunk.output_shape()["dark5"].channels == 128


def test_the_published_width_is_the_default():
    with torch.device("meta"):
        neck = YOLOv3FPN(bottom_up=Darknet53())
    assert sum(p.numel() for p in neck.bottom_up.parameters()) == 40_584_928  # its 52 convolutions and their norms
    assert {name: shape.channels for name, shape in neck.output_shape().items()} == {"p3": 128, "p4": 256, "p5": 512}
