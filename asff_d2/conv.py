"""Convolution blocks of ASFF, whatever the norm, and the released initialisation."""

from functools import partial

from dense_d2.modeling.layers import ConvBlock, make_activation

from torch import nn

__all__ = ["conv_block", "init_convs", "negative_slope"]

GN_GROUPS, GN_GROUP_SIZE = 32, 8


def conv_block(
    in_channels, out_channels, kernel_size, stride=1, *, norm, activation, norm_eps=None, norm_momentum=None
):
    """Convolution, norm, activation.

    Two norms need care: "" leaves a bias to the convolution, and "GN" (32 groups in Detectron2) takes groups of 8 channels
    where 32 do not divide the channels, as in the narrow convolutions of the fusion weights.
    """
    if not norm:
        padding = (kernel_size - 1) // 2
        block = nn.Sequential()
        block.add_module("conv", nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding))
        block.add_module("activation", make_activation(activation))
        return block
    if norm == "GN" and out_channels % GN_GROUPS:
        norm = partial(nn.GroupNorm, max(1, out_channels // GN_GROUP_SIZE))
    return ConvBlock(
        in_channels,
        out_channels,
        kernel_size,
        stride,
        norm=norm,
        norm_eps=norm_eps,
        norm_momentum=norm_momentum,
        activation=activation,
    )


def negative_slope(activation):
    """Slope of the activation's negative part, for the gain of `init_convs`."""
    return 0.1 if activation == "LeakyReLU" else 0.0


def init_convs(module, slope):
    """Kaiming-normal weights (fan in) and zero biases for every `nn.Conv2d` inside, prediction layers too.

    Source: released code since December 2019. There is no prior for the objectness, which starts at 0.5. Deformable
    convolutions are no `nn.Conv2d` and keep PyTorch's default. The released Darknet weights are older: with them, the
    deformable convolution was drawn like the others, and the shape, RFB and fusion-weight layers were not.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, a=slope)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
