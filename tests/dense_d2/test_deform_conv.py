"""Our deformable convolution for CPUs is torchvision's, values and gradients."""

from dense_d2.modeling.deform_conv import DeformConv2d, ModulatedDeformConv2d, deform_conv2d

import pytest
import torch
import torchvision
from torch import nn

SETTINGS = {
    "plain": {},
    "modulated": dict(modulated=True),
    "strided": dict(stride=2, modulated=True),
    "dilated": dict(dilation=2, padding=2),
    "groups of offsets": dict(offset_groups=4, bias=True),
    "groups of channels": dict(groups=2, modulated=True),
    "both": dict(groups=4, offset_groups=2, modulated=True, bias=True),
    "1x1 map": dict(size=(1, 1)),
    "2x5 kernel 5": dict(size=(2, 5), kernel=5, padding=2),
}


def make(
    size=(6, 7), kernel=3, stride=1, padding=1, dilation=1, groups=1, offset_groups=1, modulated=False, bias=False
):
    torch.manual_seed(0)
    reach = dilation * (kernel - 1)
    out = [(side + 2 * padding - reach - 1) // stride + 1 for side in size]
    taps = offset_groups * kernel**2
    tensors = {
        "x": torch.randn(2, 8, *size).contiguous(memory_format=torch.channels_last),
        "offset": 3 * torch.randn(2, 2 * taps, *out),  # many leave the map
        "weight": torch.randn(12, 8 // groups, kernel, kernel),
        "bias": torch.randn(12) if bias else None,
        "mask": torch.rand(2, taps, *out) if modulated else None,
    }
    tensors["offset"][:, :, 0, 0] = (
        0.0  # exactly on the grid: the derivative is that of the cell below and to the right
    )
    tensors = {name: t.requires_grad_() for name, t in tensors.items() if t is not None}
    return tensors, dict(stride=stride, padding=padding, dilation=dilation)


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_torchvisions(name):
    tensors, geometry = make(**SETTINGS[name])
    ours = deform_conv2d(**tensors, **geometry)
    theirs = torchvision.ops.deform_conv2d(
        tensors["x"], tensors["offset"], tensors["weight"], tensors.get("bias"), **geometry, mask=tensors.get("mask")
    )
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    gradient = torch.randn_like(theirs)
    for a, b in zip(*(torch.autograd.grad(y, list(tensors.values()), gradient) for y in (ours, theirs))):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=2e-5)


def test_a_tap_moved_by_half_a_cell_reads_the_mean_of_two():
    x = torch.tensor([[1.0, 3.0], [10.0, 30.0]])[None, None]
    offset = torch.zeros(1, 2, 2, 2)
    offset[:, 1] = 0.5  # to the right
    y = deform_conv2d(x, offset, torch.ones(1, 1, 1, 1))
    assert y[0, 0].tolist() == [[2.0, 1.5], [20.0, 15.0]]  # beyond the edge there is 0


def test_positions_far_away_read_nothing_and_do_not_fail():
    x, offset, weight = torch.ones(1, 1, 2, 2), torch.ones(1, 2, 2, 2), torch.ones(1, 1, 1, 1)
    for far in (1e30, -1e30, torch.inf, -torch.inf):
        assert deform_conv2d(x, far * offset, weight).tolist() == [[[[0.0, 0.0], [0.0, 0.0]]]]
    assert deform_conv2d(x, offset * torch.nan, weight).isnan().all()


def test_a_trace_keeps_the_one_operator():
    conv = DeformConv2d(2, 2, 3, padding=1)
    graph = torch.jit.trace(conv, (torch.rand(1, 2, 3, 3), torch.rand(1, 18, 3, 3))).inlined_graph
    assert "torchvision::deform_conv2d" in str(graph)


def test_autocast_leaves_it_in_float32():
    conv = ModulatedDeformConv2d(2, 2, 3, padding=1)
    nn.init.normal_(conv.conv_offset.weight)
    x = torch.rand(1, 2, 4, 4)
    expected = conv(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(conv(x), expected)
        assert conv(x.bfloat16()).dtype == torch.bfloat16
