"""Width and depth of the Darknet trunk and YOLOv3's neck. Names and sizes of the published ones: tests/parity, tests/yolox_d2."""

from dense_d2.modeling.darknet import Darknet53
from dense_d2.modeling.yolov3_fpn import YOLOv3FPN

import pytest
import torch
from torch import nn


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
    drops = [nn.Identity() for _ in range(3)]
    neck = YOLOv3FPN(bottom_up=trunk, channels=8, drop_blocks=drops)
    assert [neck.p3[2], neck.p4[2], neck.p5[6]] == drops  # behind a 3x3 convolution; of p5 the second
    assert [len(getattr(trunk, f"dark{i}")) - 1 for i in range(1, 6)] == [1, 0, 2, 1, 1]
    assert trunk.output_shape()["dark5"].channels == 128


def test_the_published_width_is_the_default():
    with torch.device("meta"):
        neck = YOLOv3FPN(bottom_up=Darknet53())
    assert sum(p.numel() for p in neck.bottom_up.parameters()) == 40_584_928  # its 52 convolutions and their norms
    assert {name: shape.channels for name, shape in neck.output_shape().items()} == {"p3": 128, "p4": 256, "p5": 512}
    assert {type(module) for module in neck.modules()} & {nn.SiLU, nn.ReLU, nn.LeakyReLU} == {nn.LeakyReLU}
    assert neck.size_divisibility == neck.bottom_up.size_divisibility == 32
    assert [shape.stride for shape in neck.output_shape().values()] == [8, 16, 32]


def test_frozen_stages_and_chosen_maps():
    def frozen(**kwargs):
        trunk = Darknet53(base_channels=4, num_blocks=(1, 1, 1, 1, 1), **kwargs)
        return {name.split(".")[0] for name, p in trunk.named_parameters() if not p.requires_grad}

    assert frozen() == set() and frozen(freeze_at=1) == {"stem"} and frozen(freeze_at=3) == {"stem", "dark1", "dark2"}
    trunk = Darknet53(base_channels=4, num_blocks=(1, 1, 1, 1, 1), out_features=["dark2", "dark4"])
    assert list(trunk(torch.zeros(1, 3, 64, 64))) == ["dark2", "dark4"]
    with pytest.raises(ValueError, match=r"\['dark2', 'dark4', 'dark4'\] have strides \[4, 16, 16\]"):
        YOLOv3FPN(bottom_up=trunk, in_features=["dark2", "dark4", "dark4"])
    with pytest.raises(ValueError, match=r"out_features=\['dark6'\]; choose from \['dark1', "):
        Darknet53(out_features=["dark6"])
