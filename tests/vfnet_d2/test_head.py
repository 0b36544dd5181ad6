import math

from dense_d2.modeling.deform_conv import ModulatedDeformConv2d
from tests.vfnet_d2.tiny import STRIDES, tiny_head
from vfnet_d2.head import VFNetHead

import pytest
import torch
from torch import nn


def make_features(batch_size=1, channels=32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(batch_size, channels, s, s + 1, generator=generator) for s in (5, 4, 3, 2, 1)]


def box_gradient(loss_of, gradient_mul):
    """Gradient of the layer of the initial boxes under a loss that depends on them through the star alone."""
    torch.manual_seed(0)
    head = tiny_head(gradient_mul=gradient_mul, bbox_norm="stride")  # stars that stay on the map
    for conv in (head.vfnet_cls_dconv, head.vfnet_reg_refine_dconv, head.vfnet_cls, head.vfnet_reg_refine):
        nn.init.normal_(conv.weight, std=0.3)
    loss_of(head(make_features())).backward()
    gradient = head.vfnet_reg.weight.grad
    return torch.zeros(1) if gradient is None else gradient


@pytest.mark.parametrize(
    "loss_of", [lambda p: p.logits[0].square().sum(), lambda p: p.refined_ltrb[0].log().square().sum()]
)
def test_gradient_through_the_star_is_scaled(loss_of):
    whole, tenth = (box_gradient(loss_of, factor) for factor in (1.0, 0.1))
    assert whole.abs().max() > 1e-4
    torch.testing.assert_close(whole, 10 * tenth, rtol=1e-4, atol=1e-6 * whole.abs().max().item())
    assert box_gradient(loss_of, 0.0).abs().max() == 0


def test_refined_boxes_are_the_initial_ones_times_a_factor():
    head = tiny_head()
    nn.init.zeros_(head.vfnet_reg_refine.weight)
    head.vfnet_reg_refine.bias.data = torch.tensor([0.0, 1.0, -1.0, 2.0])
    head.scales_refine[1].data.fill_(0.5)
    predictions = head(make_features())
    for level, scale in ((0, 1.0), (1, 0.5)):
        factor = torch.tensor([0.0, 1.0, -1.0, 2.0]).mul(scale).exp().view(1, 4, 1, 1)
        torch.testing.assert_close(predictions.refined_ltrb[level], factor * predictions.ltrb[level])


@pytest.mark.parametrize("bbox_norm, units", [("reg_denom", (64, 128, 256, 512, 1024)), ("stride", STRIDES)])
def test_initial_boxes_are_exponentials_of_the_level(bbox_norm, units):
    head = tiny_head(bbox_norm=bbox_norm)
    nn.init.zeros_(head.vfnet_reg.weight)
    head.vfnet_reg.bias.data = torch.tensor([0.0, 0.5, 1.0, -1.0])
    head.scales[4].data.fill_(2.0)
    ltrb = head(make_features()).ltrb
    for level, unit in enumerate(units):
        scale = 2 if level == 4 else 1
        expected = torch.tensor([unit * math.exp(scale * e) for e in (0.0, 0.5, 1.0, -1.0)])
        torch.testing.assert_close(ltrb[level], expected.view(1, 4, 1, 1).expand_as(ltrb[level]))


def test_overflow_of_an_exponential_can_be_bounded():
    heads = [tiny_head(max_exponent=bound) for bound in (None, 10.0)]
    for head in heads:
        nn.init.constant_(head.vfnet_reg.bias, 1e4)
    assert heads[0](make_features()).ltrb[0].isinf().all()
    predictions = heads[1](make_features())
    torch.testing.assert_close(predictions.ltrb[0], torch.full_like(predictions.ltrb[0], 64 * math.exp(10)))
    predictions.logits[0].sum().backward()
    assert all(p.grad.isfinite().all() for p in heads[1].parameters() if p.grad is not None)


def test_initialisation():
    torch.manual_seed(0)
    head = tiny_head(deform_last_conv=True, num_convs=2)
    torch.testing.assert_close(head.vfnet_cls.bias, torch.full((3,), -4.59512), atol=1e-5, rtol=0)
    for conv in (head.cls_convs[0].conv, head.vfnet_reg_conv.conv, head.vfnet_reg, head.vfnet_cls_dconv):
        assert 0.008 < conv.weight.std() < 0.012
    for tower in (head.cls_convs, head.reg_convs):
        conv = tower[-1].conv
        assert isinstance(conv, ModulatedDeformConv2d) and type(tower[0].conv) is nn.Conv2d
        assert conv.conv_offset.weight.abs().max() == conv.conv_offset.bias.abs().max() == 0
        assert conv.weight.abs().max().item() == pytest.approx(1 / math.sqrt(32 * 9), rel=0.01)
    norms = [module for module in head.modules() if isinstance(module, nn.GroupNorm)]
    assert len(norms) == 5 and all(norm.num_groups == 32 and norm.eps == 1e-5 for norm in norms)


def test_names_and_sizes_are_those_of_the_released_head():
    with torch.device("meta"):
        heads = [VFNetHead(), VFNetHead(deform_last_conv=True), VFNetHead(star_conv=False, refine=False)]
    # 5.51 and 5.64 million; the raw network has 32.29 with 27.37 of backbone and pyramid
    assert [sum(p.numel() for p in head.parameters()) for head in heads] == [5514850, 5639320, 4916313]
    names = {name.split(".")[0] for name in heads[2].state_dict()}
    assert names == {"cls_convs", "reg_convs", "vfnet_reg_conv", "vfnet_reg", "scales", "vfnet_cls_conv", "vfnet_cls"}


def test_parts_can_be_left_out():
    assert tiny_head(refine=False)(make_features()).refined_ltrb is None
    head = tiny_head(star_conv=False, refine=False, centerness=True)
    raw = head(make_features())
    assert raw.refined_ltrb is None and [tuple(x.shape) for x in raw.centerness][:2] == [(1, 1, 5, 6), (1, 1, 4, 5)]
    head.reg_convs[0].conv.weight.data.neg_()
    assert torch.equal(head(make_features()).centerness[0], raw.centerness[0])  # it belongs to the classes' tower
    with pytest.raises(ValueError, match="needs the features of star_conv"):
        tiny_head(star_conv=False)
    with pytest.raises(ValueError, match="bbox_norm is 'relu'"):
        tiny_head(bbox_norm="relu")
    with pytest.raises(ValueError, match="5 strides but got 4"):
        tiny_head()(make_features()[:4])


def test_boxes_are_float32_under_autocast():
    head = tiny_head()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = head(make_features())
    assert predictions.logits[0].dtype == torch.bfloat16
    for boxes in (*predictions.ltrb, *predictions.refined_ltrb):
        assert boxes.dtype == torch.float32
    sum(x.float().square().mean() for maps in predictions[:3] for x in maps).backward()
    assert all(p.grad.isfinite().all() for p in head.parameters())
