"""The neck of YOLOv3-SPP: spatial pyramid pooling on the coarsest map, then a top-down path of five-convolution blocks.

Source: the released YOLOX-Darknet53 (YOLOFPN) and ASFF models, which have the same one; neither paper draws it.

Shapes: C3, C4, C5 are the channels of the backbone's maps of stride 8, 16, 32.
"""

from functools import partial

import torch
import torch.nn.functional as F
from detectron2.modeling import Backbone
from torch import nn

from .darknet import DarknetBlock
from .layers import ConvBlock

__all__ = ["SPP", "YOLOv3FPN", "upsample_concat"]


class SPP(nn.Module):
    """Concatenates the map with its maxima over windows of 5, 9 and 13 cells.

    A window of 9 is two of 5 in a row, one of 13 three, to the bit: the padding is never the maximum.
    """

    def __init__(self, kernel_size=5, repeats=3):
        super().__init__()
        self.kernel_size, self.repeats = kernel_size, repeats

    def forward(self, x):
        """(N, C, H, W) -> (N, 4C, H, W)."""
        maps = [x]
        for _ in range(self.repeats):
            maps.append(F.max_pool2d(maps[-1], self.kernel_size, stride=1, padding=self.kernel_size // 2))
        return torch.cat(maps, dim=1)


def upsample_concat(coarse, fine):
    """Doubles the size of `coarse`, nearest neighbour, and puts `fine` behind its channels."""
    return torch.cat([F.interpolate(coarse, scale_factor=2.0, mode="nearest"), fine], dim=1)


class YOLOv3FPN(Backbone):
    """Outputs "p3" (C channels, stride 8), "p4" (2C, 16) and "p5" (4C, 32); C is 128."""

    def __init__(
        self,
        *,
        bottom_up,
        in_features=("dark3", "dark4", "dark5"),
        norm="BN",
        norm_eps=None,
        norm_momentum=None,
        activation="LeakyReLU",
        drop_blocks=None,
        channels=128,
    ):
        """
        Args:
            bottom_up: backbone.
            in_features: its outputs of stride 8, 16 and 32.
            norm, norm_eps, norm_momentum, activation: of every convolution, see `ConvBlock`.
            drop_blocks: modules for the maps of stride 8, 16 and 32, each put into its block of convolutions behind the
                first 3x3 one (behind the second of stride 32), as ASFF does with DropBlock; None for none.
            channels: C of "p3".
        """
        super().__init__()
        block = partial(ConvBlock, norm=norm, norm_eps=norm_eps, norm_momentum=norm_momentum, activation=activation)
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        if strides != [8, 16, 32]:
            raise ValueError(f"in_features={list(in_features)} have strides {strides}; name those of 8, 16 and 32")
        c3, c4, c5 = (shapes[name].channels for name in in_features)
        self.bottom_up, self.in_features = bottom_up, list(in_features)
        drop3, drop4, drop5 = [nn.Identity()] * 3 if drop_blocks is None else drop_blocks

        p3, p4, p5 = channels, 2 * channels, 4 * channels
        self.p5 = nn.Sequential(
            block(c5, p5, 1),
            block(p5, 2 * p5, 3),
            block(2 * p5, p5, 1),
            SPP(),
            block(4 * p5, p5, 1),
            block(p5, 2 * p5, 3),
            drop5,
            block(2 * p5, p5, 1),
        )
        self.lateral4 = block(p5, p4, 1)
        self.p4 = self._five_convolutions(block, p4 + c4, p4, drop4)
        self.lateral3 = block(p4, p3, 1)
        self.p3 = self._five_convolutions(block, p3 + c3, p3, drop3)

        self._out_features = ["p3", "p4", "p5"]
        self._out_feature_channels = {"p3": p3, "p4": p4, "p5": p5}
        self._out_feature_strides = {"p3": 8, "p4": 16, "p5": 32}

    @staticmethod
    def _five_convolutions(block, in_channels, channels, drop):
        return nn.Sequential(
            block(in_channels, channels, 1),
            block(channels, 2 * channels, 3),
            drop,
            DarknetBlock(2 * channels, shortcut=False, block=block),
            block(2 * channels, channels, 1),
        )

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        """(N, 3, H, W) -> dict of feature maps."""
        features = self.bottom_up(x)
        c3, c4, c5 = (features[name] for name in self.in_features)
        p5 = self.p5(c5)
        p4 = self.p4(upsample_concat(self.lateral4(p5), c4))
        p3 = self.p3(upsample_concat(self.lateral3(p4), c3))
        return {"p3": p3, "p4": p4, "p5": p5}
