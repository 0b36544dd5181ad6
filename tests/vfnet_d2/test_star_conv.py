"""Offsets of the star convolution: the nine points, the gradient, and the convolution that uses them."""

from vfnet_d2.star_conv import StarConv2d, star_offsets

import pytest
import torch


def test_offsets_lead_from_the_regular_grid_to_the_nine_points():
    ltrb = torch.tensor([8.0, 16.0, 24.0, 40.0]).view(1, 4, 1, 1)  # 1, 2, 3 and 5 cells
    offsets = star_offsets(ltrb, stride=8)
    assert offsets.shape == (1, 18, 1, 1) and offsets.dtype == torch.float32
    grid = torch.tensor([(y, x) for y in (-1.0, 0.0, 1.0) for x in (-1.0, 0.0, 1.0)])
    points = offsets.view(9, 2) + grid  # (down, right)
    expected = [(-2, -1), (-2, 0), (-2, 3), (0, -1), (0, 0), (0, 3), (5, -1), (5, 0), (5, 3)]
    torch.testing.assert_close(points, torch.tensor(expected, dtype=torch.float32))


def test_a_box_of_one_cell_around_needs_no_offsets():
    assert star_offsets(torch.full((1, 4, 2, 3), 16.0), stride=16).abs().max() < 1e-6


def gradient(factor):
    ltrb = (torch.rand(1, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 20 + 1).requires_grad_()
    weights = torch.randn(1, 18, 3, 3, generator=torch.Generator().manual_seed(1))
    offsets = star_offsets(ltrb, 8, gradient_mul=factor)
    (offsets * weights).sum().backward()
    return offsets.detach(), ltrb.grad


def test_factor_scales_the_gradient_and_leaves_the_value():
    (whole, whole_grad), (tenth, tenth_grad), (none, no_grad) = (gradient(factor) for factor in (1.0, 0.1, 0.0))
    torch.testing.assert_close(tenth, whole)
    torch.testing.assert_close(none, whole)
    torch.testing.assert_close(tenth_grad * 10, whole_grad)
    assert no_grad.abs().max() == 0 and whole_grad.abs().min() > 0


def test_convolution_reads_the_points_and_zeros_outside():
    conv = StarConv2d(1, 1)
    with torch.no_grad():
        conv.weight.copy_(torch.tensor([100.0, 0, 0, 0, 1, 0, 0, 0, 10]).view(1, 1, 3, 3))
    x = torch.arange(1.0, 26).view(1, 1, 5, 5)
    ltrb = torch.tensor([1.0, 2.0, 2.0, 1.0]).view(1, 4, 1, 1).expand(1, 4, 5, 5)
    y = conv(x, star_offsets(ltrb, stride=1))
    # at (2, 2), value 13: upper left (0, 1) holds 2, lower right (3, 4) holds 20
    assert y[0, 0, 2, 2].item() == pytest.approx(100 * 2 + 13 + 10 * 20)
    assert y[0, 0, 0, 4].item() == pytest.approx(5)  # both outside
    assert conv.bias is None and StarConv2d(64, 64).weight.std().item() == pytest.approx(0.01, rel=0.05)


@pytest.mark.parametrize("size", [(1, 1), (2, 3)])
def test_maps_smaller_than_the_kernel(size):
    x = torch.randn(1, 4, *size, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = StarConv2d(4, 2)(x, star_offsets(torch.full((1, 4, *size), 16.0), stride=8))
    y.sum().backward()
    assert y.shape == (1, 2, *size) and x.grad.isfinite().all()
