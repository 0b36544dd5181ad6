"""Against a plain reading of the facts, with PyTorch's own modules."""

from dense_d2.modeling.deform_conv import ModulatedDeformConv2d
from dense_d2.modeling.res2net import DeepStem, Res2NetBlock, build_res2net_backbone, make_res2net_stages

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling.backbone import ResNet
from torch import nn
from torch.nn import functional as F


@pytest.mark.parametrize("is_first, stride", [(True, 1), (True, 2), (False, 1)])
def test_block(is_first, stride):
    torch.manual_seed(0)
    in_channels = 6 if is_first else 12
    block = Res2NetBlock(in_channels, 12, width=3, stride=stride, is_first=is_first, norm="BN").eval()
    for norm in (m for m in block.modules() if isinstance(m, nn.BatchNorm2d)):
        nn.init.normal_(norm.running_mean)
        nn.init.uniform_(norm.running_var, 0.5, 2)
    x = torch.randn(1, in_channels, 7, 9)

    a, b, c, d = F.relu(block.conv1(x)).chunk(4, dim=1)
    first = F.relu(block.convs[0](a))
    second = F.relu(block.convs[1](b if is_first else first + b))
    third = F.relu(block.convs[2](c if is_first else second + c))
    if stride == 2:
        d = nn.AvgPool2d(3, stride=2, padding=1)(d)
    expected = block.conv3(torch.cat([first, second, third, d], dim=1))
    if is_first:
        pool = nn.AvgPool2d(stride, stride=stride, ceil_mode=True, count_include_pad=False)
        expected = F.relu(expected + block.shortcut(pool(x)))
    else:
        expected = F.relu(expected + x)
    torch.testing.assert_close(block(x), expected)


def test_deformable_block():
    blocks = []
    for deform in (True, False):
        torch.manual_seed(0)
        blocks.append(Res2NetBlock(6, 12, width=3, stride=2, is_first=True, deform=deform, norm="BN").eval())
    block, plain = blocks
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(block.convs, plain.convs))
    plain.load_state_dict(block.state_dict(), strict=False)
    for conv in block.convs:
        nn.init.constant_(conv.conv_offset.bias[18:], 100.0)  # masks of 1: the plain block
    x = torch.randn(1, 6, 7, 9)
    torch.testing.assert_close(block(x), plain(x))


def test_stem():
    stem = DeepStem(norm="BN").eval()
    assert [tuple(conv.weight.shape) for conv in (stem.conv1, stem.conv2, stem.conv3)] == [
        (32, 3, 3, 3),
        (32, 32, 3, 3),
        (64, 32, 3, 3),
    ]
    x = torch.randn(1, 3, 32, 24)
    y = x
    for conv in (stem.conv1, stem.conv2, stem.conv3):
        y = conv(y).relu()
    assert y.shape == (1, 64, 16, 12)
    torch.testing.assert_close(stem(x), nn.MaxPool2d(3, 2, 1)(y))


def test_widths_and_deformable_stages():
    with torch.device("meta"):
        stages = make_res2net_stages(101, deform_on_per_stage=[False, True, True, True])
        model = ResNet(DeepStem(), make_res2net_stages(50), out_features=["res5"], freeze_at=2)
        assert model(torch.zeros(1, 3, 64, 96))["res5"].shape == (1, 2048, 2, 3)
    assert [len(stage) for stage in stages] == [3, 4, 23, 3]
    assert [stage[0].width for stage in stages] == [26, 52, 104, 208]
    kinds = [all(isinstance(conv, ModulatedDeformConv2d) for b in stage for conv in b.convs) for stage in stages]
    assert kinds == [False, True, True, True]
    assert [conv.stride for conv in stages[2][0].convs] == [2, 2, 2]
    assert [[block.is_first for block in stage].index(False) for stage in stages] == [1, 1, 1, 1]


def test_from_yacs():
    cfg = get_cfg()
    cfg.MODEL.RESNETS.update(NORM="StatFrozenBN", OUT_FEATURES=["res4"], DEFORM_ON_PER_STAGE=[False, True, True, True])
    with torch.device("meta"):
        model = build_res2net_backbone(cfg, ShapeSpec(channels=3))
    assert model.output_shape() == {"res4": ShapeSpec(channels=1024, stride=16)}
    assert "res3.0.convs.0.conv_offset.weight" in model.state_dict()
    assert isinstance(model.res2[0].conv1.norm, FrozenBatchNorm2d) and model.res3[0].conv1.weight.requires_grad
    with pytest.raises(ValueError, match="depth is 18"):
        make_res2net_stages(18)
