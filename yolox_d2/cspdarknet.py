"""CSPDarknet: the backbone of YOLOX-Nano to YOLOX-X, a cross-stage-partial Darknet after YOLOv5.

Source: YOLOX, section 2.2 ("modified CSPNet"); the released code for everything in it. The values of the norm layers
(eps 1e-3, momentum 0.03) belong to the published weights, so they are the defaults here.

Shapes: C channels of a map; c the unit, int(64 * width).
"""

from functools import partial

from dense_d2.modeling.layers import ConvBlock
from dense_d2.modeling.yolov3_fpn import SPP

import torch
from detectron2.modeling import Backbone
from torch import nn

__all__ = ["CSPBlock", "CSPDarknet", "DepthwiseBlock", "block_factory"]


class DepthwiseBlock(nn.Sequential):
    """A k x k block on every channel by itself, then a 1x1 block that mixes them (YOLOX-Nano)."""

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, *, block=ConvBlock):
        super().__init__(
            block(in_channels, in_channels, kernel_size, stride, groups=in_channels),
            block(in_channels, out_channels, 1),
        )


def block_factory(*, depthwise=False, norm="BN", norm_eps=1e-3, norm_momentum=0.03, activation="SiLU"):
    """The two kinds of block a YOLOX model is made of.

    Args:
        depthwise: make the second kind of a depthwise and a 1x1 convolution.
        norm, norm_eps, norm_momentum, activation: of every convolution, see `ConvBlock`.
    Returns:
        two callables (in_channels, out_channels, kernel_size, stride): plain, and the one for 3x3 convolutions.
    """
    plain = partial(ConvBlock, norm=norm, norm_eps=norm_eps, norm_momentum=norm_momentum, activation=activation)
    return plain, partial(DepthwiseBlock, block=plain) if depthwise else plain


class Bottleneck(nn.Module):
    """1x1 and 3x3 block, around a shortcut or without one."""

    def __init__(self, channels, shortcut, plain, spatial):
        super().__init__()
        self.shortcut = shortcut
        self.conv1 = plain(channels, channels, 1)
        self.conv2 = spatial(channels, channels, 3)

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class CSPBlock(nn.Module):
    """Half of the channels goes through bottlenecks, the other half past them; a 1x1 block joins them.

    Args:
        in_channels, out_channels: C before and after.
        num_blocks: bottlenecks.
        shortcut: whether they add their input.
        plain, spatial: see `block_factory`.
    """

    def __init__(self, in_channels, out_channels, num_blocks, shortcut, plain, spatial):
        super().__init__()
        hidden = out_channels // 2
        self.conv1 = plain(in_channels, hidden, 1)
        self.conv2 = plain(in_channels, hidden, 1)
        self.conv3 = plain(2 * hidden, out_channels, 1)
        self.blocks = nn.Sequential(*(Bottleneck(hidden, shortcut, plain, spatial) for _ in range(num_blocks)))

    def forward(self, x):
        return self.conv3(torch.cat([self.blocks(self.conv1(x)), self.conv2(x)], dim=1))


class Focus(nn.Module):
    """Moves each 2 x 2 patch into the channels, then a block: (N, 3, H, W) -> (N, C, H / 2, W / 2)."""

    def __init__(self, out_channels, plain):
        super().__init__()
        self.conv = plain(12, out_channels, 3)

    def forward(self, x):
        top_left, bottom_left = x[..., ::2, ::2], x[..., 1::2, ::2]
        top_right, bottom_right = x[..., ::2, 1::2], x[..., 1::2, 1::2]
        return self.conv(torch.cat([top_left, bottom_left, top_right, bottom_right], dim=1))


class CSPDarknet(Backbone):
    """Outputs "dark2" to "dark5" of stride 4 to 32 and 2c to 16c channels."""

    def __init__(
        self,
        *,
        depth,
        width,
        depthwise=False,
        out_features=("dark3", "dark4", "dark5"),
        norm="BN",
        norm_eps=1e-3,
        norm_momentum=0.03,
        activation="SiLU",
    ):
        """
        Args:
            depth: factor on the number of bottlenecks: 3, 9, 9, 3 at 1.0.
            width: factor on the number of channels: c = 64 at 1.0.
            depthwise, norm, norm_eps, norm_momentum, activation: see `block_factory`. Stem and 1x1 convolutions are never
                depthwise.
            out_features: names of the outputs.
        """
        super().__init__()
        plain, spatial = block_factory(
            depthwise=depthwise, norm=norm, norm_eps=norm_eps, norm_momentum=norm_momentum, activation=activation
        )
        unit, repeats = int(width * 64), max(round(depth * 3), 1)
        self._out_features = list(out_features)
        self._out_feature_channels, self._out_feature_strides = {}, {}
        self.stem = Focus(unit, plain)
        for i, factor in zip(range(2, 6), (1, 3, 3, 1)):
            channels = unit * 2 ** (i - 1)
            stage = [spatial(channels // 2, channels, 3, 2)]
            if i == 5:
                stage.append(self._pooling(channels, plain))
            stage.append(CSPBlock(channels, channels, repeats * factor, i < 5, plain, spatial))
            self.add_module(f"dark{i}", nn.Sequential(*stage))
            self._out_feature_channels[f"dark{i}"] = channels
            self._out_feature_strides[f"dark{i}"] = 2**i
        if not set(self._out_features) <= set(self._out_feature_strides):
            raise ValueError(f"out_features={self._out_features}; choose from {sorted(self._out_feature_strides)}")

    @staticmethod
    def _pooling(channels, plain):
        return nn.Sequential(plain(channels, channels // 2, 1), SPP(), plain(2 * channels, channels, 1))

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        """(N, 3, H, W) with H, W multiples of 32 -> dict of feature maps."""
        outputs = {}
        x = self.stem(x)
        for i in range(2, 6):
            x = getattr(self, f"dark{i}")(x)
            if f"dark{i}" in self._out_features:
                outputs[f"dark{i}"] = x
        return outputs
