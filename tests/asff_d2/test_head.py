from asff_d2.head import FeatureAdaption, GuidedYOLOHead
from asff_d2.rfb import ReceptiveFieldBlock

import pytest
import torch


@pytest.mark.parametrize("channels,size", [(1024, 5_048_576), (512, 1_262_720), (256, 315_968)])
def test_size_of_the_receptive_field_block(channels, size):
    with torch.device("meta"):
        assert sum(p.numel() for p in ReceptiveFieldBlock(channels).parameters()) == size


def test_reach_of_the_receptive_field_block():
    """Behind a 1x1 convolution each: 3x3; 3x3 and 3x3 of dilation 2; 5x5 and 3x3 of dilation 3."""
    block = ReceptiveFieldBlock(8).double()
    x = torch.zeros(1, 8, 17, 17, dtype=torch.float64, requires_grad=True)
    y = block(x)
    assert y.shape == x.shape
    dilations = [[conv.dilation[0] for conv in branch] for branch in block.branches]
    assert dilations == [[1], [1, 1], [1, 1, 2], [1, 1, 3]]
    for branch, reach in enumerate((0, 1, 3, 5)):
        (grad,) = torch.autograd.grad(y[0, 2 * branch : 2 * branch + 2, 8, 8].sum(), x, retain_graph=True)
        seen = grad[0].abs().sum(dim=0).nonzero()
        assert (seen.min(), seen.max()) == (8 - reach, 8 + reach)


def test_slots_move_the_points_of_their_own_group():
    """With offsets only from slot 1, its quarter of the channels is read one cell to the right of where the others are."""
    adaption = FeatureAdaption(8, num_slots=4)
    with torch.no_grad():
        for parameter in adaption.parameters():
            parameter.zero_()
        adaption.deform_conv.weight[range(8), range(8), 1, 1] = 1.0  # the identity
        adaption.conv_offset.weight.view(4, 9, 2, 2)[1, :, 1, 0] = 1.0  # x offsets from ln of the width
    x, shapes = torch.rand(1, 8, 5, 6), torch.ones(1, 8, 5, 6)
    shapes[:, 1::2] = 7.0  # of the heights, which nothing reads
    y = adaption(x, shapes)
    torch.testing.assert_close(y[:, [0, 1, 4, 5, 6, 7]], x[:, [0, 1, 4, 5, 6, 7]])
    torch.testing.assert_close(y[:, 2:4, :, :-1], x[:, 2:4, :, 1:])


def test_receptive_field_block_stands_before_the_deformable_convolution():
    adaption, x, shapes = FeatureAdaption(8, num_slots=4, rfb=True), torch.rand(1, 8, 5, 6), torch.rand(1, 8, 5, 6)
    expected = adaption.deform_conv(adaption.rfb(x), adaption.conv_offset(shapes))
    torch.testing.assert_close(adaption(x, shapes), expected)


def test_no_gradient_through_the_offsets():
    head = GuidedYOLOHead(in_channels=[8], num_classes=3)
    predictions, shapes = head([torch.rand(1, 8, 4, 4)])
    assert predictions[0].shape == (1, 4 * 8, 4, 4) and shapes[0].shape == (1, 8, 4, 4)
    predictions[0].sum().backward(retain_graph=True)
    level = head.levels[0]
    assert level.guide_wh.weight.grad is None and level.adaption.conv_offset.weight.grad is not None
    shapes[0].sum().backward()
    assert level.guide_wh.weight.grad is not None


@pytest.mark.parametrize("channels,size", [(1024, 9_795_124), (512, 2_538_548), (256, 679_732)])
def test_size_of_a_level(channels, size):
    with torch.device("meta"):
        assert sum(p.numel() for p in GuidedYOLOHead(in_channels=[channels], num_classes=80).parameters()) == size


def test_errors():
    with pytest.raises(ValueError, match="deformable_groups=4 must divide"):
        GuidedYOLOHead(in_channels=[8], num_classes=3, free_slot=False)
    with pytest.raises(ValueError, match="rfb=True needs"):
        GuidedYOLOHead(in_channels=[8], num_classes=3, guided_anchor=False, rfb=True)
