"""Deformable convolution on torchvision's operator, and on a CPU on a faster one of our own; nothing to compile.

Source: Dai et al. 2017 (v1); Zhu et al. 2019 (v2, modulated).

Shapes: N images, C channels, k x k the kernel, G groups of offsets, H x W the output map. Offset channel
2 * (g*k*k + k*row + column) moves the sampling point of that tap down, the next channel moves it to the right, in cells of
the input map.
"""

import math

import torch
import torchvision
from torch import nn

from .deform_conv_cpu import deform_conv2d_cpu

__all__ = ["DeformConv2d", "ModulatedDeformConv2d", "deform_conv2d"]


def deform_conv2d(x, offset, weight, bias=None, *, stride=1, padding=0, dilation=1, mask=None):
    """Deformable convolution in float32, whatever autocast says: offsets lose their sub-cell precision below that.

    Args:
        x: (N, C, Hin, Win).
        offset: (N, 2*G*k*k, H, W).
        weight: (C_out, C / groups, k, k); groups follow from its shape.
        bias: (C_out,) or None.
        mask: (N, G*k*k, H, W) factors in [0, 1] for the modulated version, or None.
    Returns:
        (N, C_out, H, W) in the dtype of `x`.
    """
    with torch.autocast(device_type=x.device.type, enabled=False):
        offset, mask, bias = (None if t is None else t.float() for t in (offset, mask, bias))
        # a trace, for a graph to export or to count, keeps the one operator
        own = x.device.type == "cpu" and not torch.jit.is_tracing()
        run = deform_conv2d_cpu if own else torchvision.ops.deform_conv2d
        y = run(x.float(), offset, weight.float(), bias, stride, padding, dilation, mask)
    return y.to(x.dtype)


class DeformConv2d(nn.Module):
    """Weights of a deformable convolution whose offsets the caller computes.

    Initialised as PyTorch does a plain convolution: weight and bias from U(-b, b), b = 1 / sqrt(C / groups * k * k).
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=False):
        super().__init__()
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, kernel_size, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_channels)) if bias else None
        bound = 1 / math.sqrt(self.weight[0].numel())
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x, offset, mask=None):
        """See `deform_conv2d`."""
        return deform_conv2d(
            x,
            offset,
            self.weight,
            self.bias,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            mask=mask,
        )


class ModulatedDeformConv2d(DeformConv2d):
    """Modulated deformable convolution that predicts its own offsets and masks, from a plain convolution of the same shape.

    Channels of `conv_offset`: 2*k*k offsets in the order of `deform_conv2d`, then k*k mask logits. It starts at zero, so
    that every tap lies on the grid and counts half. `norm`, if given, is applied to the result.
    """

    def __init__(
        self, in_channels, out_channels, kernel_size, stride=1, padding=0, dilation=1, groups=1, bias=False, norm=None
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.num_offsets = 2 * kernel_size**2
        self.conv_offset = nn.Conv2d(in_channels, 3 * kernel_size**2, kernel_size, stride, padding, dilation)
        nn.init.zeros_(self.conv_offset.weight)
        nn.init.zeros_(self.conv_offset.bias)
        self.norm = norm

    def forward(self, x):
        """(N, C, Hin, Win) -> (N, C_out, H, W)."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            offset_and_mask = self.conv_offset(x.to(self.conv_offset.weight.dtype)).float()
        offset, mask = offset_and_mask.tensor_split([self.num_offsets], dim=1)
        x = super().forward(x, offset, mask.sigmoid())
        return x if self.norm is None else self.norm(x)
