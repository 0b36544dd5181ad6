from dense_d2.modeling.frozen_norm import StatFrozenBN
from vfnet_d2.fpn import VFNetFPN, build_vfnet_resnet_fpn_backbone
from vfnet_d2.pafpn import PAFPNX

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from torch import nn
from torch.nn import functional as F


class Trunk(Backbone):
    """Random maps of strides 8, 16 and 32."""

    channels = {"res3": 8, "res4": 16, "res5": 24}

    def output_shape(self):
        return {name: ShapeSpec(c, stride=8 * 2**i) for i, (name, c) in enumerate(self.channels.items())}

    def forward(self, x):
        torch.manual_seed(1)
        height, width = x.shape[-2:]
        shapes = self.output_shape()
        return {name: torch.randn(1, s.channels, height // s.stride, width // s.stride) for name, s in shapes.items()}


IMAGE = torch.zeros(1, 3, 64, 96)


def test_fpn_is_detectron2s_with_p6_from_p5():
    ours = VFNetFPN(Trunk(), out_channels=32)
    theirs = FPN(Trunk(), ["res3", "res4", "res5"], 32, top_block=LastLevelP6P7(32, 32, in_feature="p5"))
    theirs.load_state_dict(ours.state_dict())
    a, b = ours(IMAGE), theirs(IMAGE)
    assert list(a) == list(b) == list(ours.output_shape()) == ["p3", "p4", "p5", "p6", "p7"]
    assert all(torch.equal(a[name], b[name]) for name in a)
    torch.testing.assert_close(a["p6"], ours.top_block.p6(a["p5"]))
    # Xavier: sqrt(6 / (fan_in + fan_out)); Detectron2's own filling would stop at sqrt(3 / 24) = 0.354
    assert ours.fpn_lateral5.weight.abs().max().item() == pytest.approx((6 / (24 + 32)) ** 0.5, rel=0.03)
    assert not ours.fpn_lateral5.bias.any() and not ours.top_block.p7.bias.any()


def test_p6_and_p7_of_the_baselines():
    atss = VFNetFPN(Trunk(), out_channels=32, relu_before_p7=False)
    maps = atss(IMAGE)
    torch.testing.assert_close(maps["p7"], atss.top_block.p7(maps["p6"]))
    retinanet = VFNetFPN(Trunk(), out_channels=32, top_in_feature="res5", relu_before_p7=False)
    assert torch.equal(retinanet(IMAGE)["p6"], retinanet.top_block.p6(Trunk()(IMAGE)["res5"]))
    reppoints = VFNetFPN(Trunk(), out_channels=32, norm="GN", top_in_feature="res5")
    assert {"fpn_output3.norm.weight", "top_block.p6.norm.bias"} <= set(reppoints.state_dict())
    assert not any(name.endswith(("output3.bias", "p6.bias")) for name in reppoints.state_dict())


def test_pafpnx_step_by_step():
    torch.manual_seed(0)
    neck = PAFPNX(bottom_up=Trunk(), out_channels=64)
    maps = neck(IMAGE)
    c3, c4, c5 = Trunk()(IMAGE).values()

    lateral = neck.lateral_convs
    l5 = lateral[2](c5)
    l4 = lateral[1](c4) + F.interpolate(l5, scale_factor=2, mode="nearest")
    l3 = lateral[0](c3) + F.interpolate(l4, scale_factor=2, mode="nearest")
    m3, m4, m5 = (conv(x) for conv, x in zip(neck.fpn_convs, (l3, l4, l5)))
    m4 = m4 + neck.downsample_convs[0](m3)
    m5 = m5 + neck.downsample_convs[1](m4)
    p3, p4, p5 = (conv(x) for conv, x in zip(neck.pafpn_convs, (m3, m4, m5)))
    p6 = neck.fpn_convs[3](p5)
    p7 = neck.fpn_convs[4](p6.relu())
    assert list(maps) == ["p3", "p4", "p5", "p6", "p7"]
    for ours, expected in zip(maps.values(), (p3, p4, p5, p6, p7)):
        torch.testing.assert_close(ours, expected)
        assert (ours < 0).any()  # no activation at the end
        torch.testing.assert_close(ours.unflatten(1, (32, 2)).mean((2, 3, 4)), torch.zeros(1, 32), atol=1e-4, rtol=0)


def test_pafpnx_at_the_start():
    torch.manual_seed(0)
    neck = PAFPNX(bottom_up=Trunk())
    conv = neck.pafpn_convs[0]
    assert conv.conv_offset.weight.abs().max().item() == pytest.approx(0.0403, abs=2e-4)
    assert conv.conv_offset.weight.std().item() == pytest.approx(0.0232, abs=3e-4)
    assert not conv.conv_offset.bias.any()
    assert conv.weight.abs().max().item() == pytest.approx(0.01701, abs=1e-4)
    assert neck.lateral_convs[0].bias is not None and neck.fpn_convs[0].bias is None
    with pytest.raises(ValueError, match="name those of 8, 16 and 32"):
        PAFPNX(bottom_up=Trunk(), in_features=["res4", "res5"])


@pytest.mark.parametrize("neck", [VFNetFPN, PAFPNX])
def test_the_trunk_keeps_its_weights(neck):
    trunk = Trunk()
    trunk.conv = nn.Conv2d(2, 2, 1)
    before = trunk.conv.weight.clone()
    neck(bottom_up=trunk)
    assert torch.equal(trunk.conv.weight, before)


@pytest.mark.parametrize("builder", ["build_vfnet_resnet_fpn_backbone", "PAFPNX"])
def test_from_yacs(builder):
    cfg = get_cfg()
    cfg.MODEL.RESNETS.update(
        NORM="StatFrozenBN", OUT_FEATURES=["res3", "res4", "res5"], DEFORM_ON_PER_STAGE=[False, False, False, True]
    )
    cfg.MODEL.RESNETS.update(NUM_GROUPS=2, STRIDE_IN_1X1=False)
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.FPN.update(IN_FEATURES=["res3", "res4", "res5"], NORM="BN")
    with torch.device("meta"):
        neck = BACKBONE_REGISTRY.get(builder)(cfg, ShapeSpec(channels=3))
    shapes = neck.output_shape()
    assert {name: (s.channels, s.stride) for name, s in shapes.items()} == {f"p{i}": (256, 2**i) for i in range(3, 8)}
    assert neck.size_divisibility == 32
    assert any(name.startswith("bottom_up.res5.0") and "conv_offset" in name for name in neck.state_dict())
    trunk, output = neck.bottom_up, neck.fpn_convs[0] if builder == "PAFPNX" else neck.fpn_output3
    assert type(trunk.stem.conv1.norm) is type(trunk.res3[0].conv1.norm) is StatFrozenBN
    assert trunk.stem.conv1.weight.requires_grad and isinstance(output.norm, nn.BatchNorm2d)
    if builder != "PAFPNX":  # Res2Net has neither groups nor the choice of the stride's place
        assert (trunk.res3[0].conv2.groups, trunk.res3[0].conv2.stride) == (2, (2, 2))
    assert build_vfnet_resnet_fpn_backbone.__name__ in BACKBONE_REGISTRY
