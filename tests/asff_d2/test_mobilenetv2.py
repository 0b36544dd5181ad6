from asff_d2.mobilenetv2 import MobileNetV2

import torch
from torch import nn


def test_outputs_are_the_last_layers_of_their_strides():
    torch.manual_seed(0)
    backbone, x = MobileNetV2(norm="BN"), torch.rand(1, 3, 64, 96)
    outputs, shapes = backbone(x), backbone.output_shape()
    assert set(outputs) == set(shapes) and backbone.size_divisibility == 32
    for name, num_layers, channels, stride in (("res3", 7, 32, 8), ("res4", 14, 96, 16), ("res5", 19, 1280, 32)):
        assert (shapes[name].channels, shapes[name].stride) == (channels, stride)
        assert outputs[name].shape == (1, channels, 64 // stride, 96 // stride)
        torch.testing.assert_close(outputs[name], backbone.features[:num_layers](x))
    with torch.device("meta"):
        assert isinstance(MobileNetV2(norm="SyncBN").features[0][1], nn.SyncBatchNorm)
