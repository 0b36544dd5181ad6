from dense_d2.modeling.deform_conv import ModulatedDeformConv2d
from dense_d2.modeling.frozen_norm import StatFrozenBN, fold_frozen_norms
from dense_d2.modeling.resnet import DeformBottleneckBlock, make_resnet_stages

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling.backbone import BasicStem, BottleneckBlock, ResNet
from torch import nn
from torch.nn import functional as F


def deform_conv(stride=1, groups=1):
    torch.manual_seed(0)
    return ModulatedDeformConv2d(4, 6, 3, stride=stride, padding=1, groups=groups)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_fresh_deformable_convolution_is_half_the_plain_one(stride, groups):
    conv, x = deform_conv(stride, groups), torch.randn(2, 4, 7, 8)
    expected = F.conv2d(x, conv.weight, None, stride, 1, groups=groups) / 2
    torch.testing.assert_close(conv(x), expected)


def test_channels_are_down_right_pairs_then_mask_logits():
    conv, x = deform_conv(), torch.randn(1, 4, 7, 8)
    with torch.no_grad():
        conv.conv_offset.bias[0:18:2] = 2.0  # two cells down
        conv.conv_offset.bias[1:18:2] = -1.0  # one to the left
        conv.conv_offset.bias[18:] = torch.tensor(0.8).logit()
    shifted = F.pad(x, (1, 0, 0, 2))[:, :, 2:, :-1]
    expected = 0.8 * F.conv2d(shifted, conv.weight, padding=1)
    torch.testing.assert_close(conv(x)[:, :, 1:4, 2:-2], expected[:, :, 1:4, 2:-2])
    with torch.no_grad():
        conv.conv_offset.bias[18:26] = -100.0  # only the last tap, at (+1, +1) of the shifted grid, is left
    alone = torch.einsum("oc,bchw->bohw", conv.weight[:, :, 2, 2], 0.8 * x)
    torch.testing.assert_close(conv(x)[:, :, :4, 1:], alone[:, :, 3:, 1:])


def test_deformable_convolution_in_bfloat16_computes_in_float32():
    conv, x = deform_conv(), torch.randn(1, 4, 7, 8).bfloat16()
    conv.conv_offset.register_forward_hook(lambda module, args, out: offsets.append(out))
    offsets = []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = conv(x)
    assert offsets[0].dtype == torch.float32
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y, F.conv2d(x.float(), conv.weight, padding=1).div(2).bfloat16())
    y.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in conv.parameters())


@pytest.mark.parametrize("is_folded", [False, True])
def test_statistics_stay_and_affine_learns(is_folded):
    torch.manual_seed(0)
    model = nn.Sequential(Conv2d(3, 4, 1, bias=False, norm=StatFrozenBN(4)))
    model = fold_frozen_norms(model) if is_folded else model
    assert (type(model[0]) is Conv2d) != is_folded
    assert not model[0].norm.training
    norm, plain = model.train()[0].norm, nn.BatchNorm2d(4).eval()
    for name, value in norm.state_dict().items():
        nn.init.uniform_(value, 0.5, 2) if value.is_floating_point() else value.fill_(7)
        plain.state_dict()[name].copy_(value)
    before, x = {name: b.clone() for name, b in norm.named_buffers()}, torch.randn(2, 3, 5, 5)

    y, expected = model(x), plain(F.conv2d(x, model[0].weight))
    torch.testing.assert_close(y, expected)
    (expected**2).sum().backward()
    model.zero_grad()
    (y**2).sum().backward()
    torch.testing.assert_close(norm.weight.grad, plain.weight.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(norm.bias.grad, plain.bias.grad, rtol=1e-4, atol=1e-4)
    assert all(torch.equal(before[name], b) for name, b in norm.named_buffers())


def small_resnet(**options):
    stages = make_resnet_stages(50, stride_in_1x1=False, norm="StatFrozenBN", **options)
    return ResNet(BasicStem(norm="FrozenBN"), stages, out_features=["res3", "res4", "res5"], freeze_at=2)


def test_deformable_resnext_has_detectron2s_names_and_shapes():
    with torch.device("meta"):
        model = small_resnet(num_groups=32, width_per_group=4, deform_on_per_stage=[False, True, True, True])
        plain = small_resnet(num_groups=32, width_per_group=4)
    shapes, plain_shapes = ({k: v.shape for k, v in m.state_dict().items()} for m in (model, plain))
    offsets = {name: shape for name, shape in shapes.items() if "conv_offset" in name}
    assert {name: shape for name, shape in shapes.items() if name not in offsets} == plain_shapes
    assert len(offsets) == 2 * (4 + 6 + 3)
    assert shapes["res3.0.conv2.weight"] == (256, 8, 3, 3) and shapes["res3.0.conv2.conv_offset.weight"] == (
        27,
        256,
        3,
        3,
    )
    assert [type(stage[0]) for stage in model.stages] == [BottleneckBlock] + 3 * [DeformBottleneckBlock]
    assert model.res4[0].conv2.stride == 2 and model.res4[1].conv2.stride == 1
    assert isinstance(model.res2[0].conv1.norm, FrozenBatchNorm2d) and isinstance(
        model.res3[0].conv2.norm, StatFrozenBN
    )
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any(name.startswith(("stem.", "res2.")) for name in trained)
    assert {"res3.0.conv2.norm.weight", "res3.0.conv1.norm.bias", "res5.2.conv2.weight"} <= trained


@pytest.mark.parametrize("stride, dilation", [(2, 1), (1, 2)])
def test_deformable_block_runs_forwards_and_backwards(stride, dilation):
    options = dict(bottleneck_channels=8, stride=stride, dilation=dilation, num_groups=2, norm=StatFrozenBN)
    torch.manual_seed(0)
    block = DeformBottleneckBlock(8, 16, **options)
    torch.manual_seed(0)
    plain = BottleneckBlock(8, 16, **options)
    assert torch.equal(block.conv2.weight, plain.conv2.weight)
    plain.load_state_dict(block.state_dict(), strict=False)
    with torch.no_grad():
        block.conv2.conv_offset.bias[18:] = 100.0  # masks of 1: the plain block
    x = torch.randn(2, 8, 6, 8)
    torch.testing.assert_close(block(x), plain(x))
    block(x).sum().backward()
    assert all(p.grad is not None for p in block.parameters())


def test_a_dilated_fifth_stage_keeps_its_stride():
    with torch.device("meta"):
        stages = make_resnet_stages(50, stride_in_1x1=False, res5_dilation=2)
    convs = [[block.conv2 for block in stage] for stage in stages]
    assert [row[0].stride for row in convs] == [(1, 1), (2, 2), (2, 2), (1, 1)]
    assert [{conv.dilation for conv in row} for row in convs] == 3 * [{(1, 1)}] + [{(2, 2)}]


def test_basic_blocks_cannot_be_deformable():
    assert [len(stage) for stage in make_resnet_stages(34)] == [3, 4, 6, 3]
    with pytest.raises(ValueError, match="deformable stages too start at depth 50"):
        make_resnet_stages(18, deform_on_per_stage=[False, False, False, True])
