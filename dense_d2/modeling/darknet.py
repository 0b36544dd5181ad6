"""Darknet-53 (Redmon & Farhadi 2018, YOLOv3, Table 1) without its classifier."""

from functools import partial

from detectron2.modeling import Backbone
from torch import nn

from .layers import ConvBlock

__all__ = ["Darknet53", "DarknetBlock"]

NUM_BLOCKS = (1, 2, 8, 8, 4)


class DarknetBlock(nn.Module):
    """1x1 convolution to half of the channels and 3x3 convolution back, around a shortcut or without one."""

    def __init__(self, channels, shortcut=True, block=ConvBlock):
        super().__init__()
        self.shortcut = shortcut
        self.conv1 = block(channels, channels // 2, 1)
        self.conv2 = block(channels // 2, channels, 3)

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return x + y if self.shortcut else y


class Darknet53(Backbone):
    """Outputs "dark1" to "dark5" of stride 2 to 32 and 2 to 32 times the base channels, 64 to 1024."""

    def __init__(
        self,
        *,
        out_features=("dark3", "dark4", "dark5"),
        norm="BN",
        norm_eps=None,
        norm_momentum=None,
        activation="LeakyReLU",
        freeze_at=0,
        base_channels=32,
        num_blocks=NUM_BLOCKS,
    ):
        """
        Args:
            out_features: names of the outputs.
            norm, norm_eps, norm_momentum, activation: of every convolution, see `ConvBlock`.
            freeze_at: 0 for nothing; n freezes the parameters of the stem and of dark1 to dark(n - 1).
            base_channels: of the stem; each stage has twice those of the one before.
            num_blocks: of each of the five stages.
        """
        super().__init__()
        block = partial(ConvBlock, norm=norm, norm_eps=norm_eps, norm_momentum=norm_momentum, activation=activation)
        self._out_features = list(out_features)
        self._out_feature_channels, self._out_feature_strides = {}, {}
        self.stem = block(3, base_channels, 3)
        channels = base_channels
        for i, count in enumerate(num_blocks, start=1):
            stage = [block(channels, 2 * channels, 3, 2)]
            channels *= 2
            stage += [DarknetBlock(channels, block=block) for _ in range(count)]
            self.add_module(f"dark{i}", nn.Sequential(*stage))
            self._out_feature_channels[f"dark{i}"] = channels
            self._out_feature_strides[f"dark{i}"] = 2**i
        if not set(self._out_features) <= set(self._out_feature_strides):
            raise ValueError(f"out_features={self._out_features}; choose from {sorted(self._out_feature_strides)}")
        for name in ["stem", *(f"dark{i}" for i in range(1, freeze_at))] if freeze_at else ():
            getattr(self, name).requires_grad_(False)

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        """(N, 3, H, W) -> dict of feature maps."""
        outputs = {}
        x = self.stem(x)
        for i in range(1, len(NUM_BLOCKS) + 1):
            x = getattr(self, f"dark{i}")(x)
            if f"dark{i}" in self._out_features:
                outputs[f"dark{i}"] = x
        return outputs
