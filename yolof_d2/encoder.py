"""Dilated encoder: a projector, then residual blocks of growing dilation, so that one map covers all object scales.

Source: YOLOF, section 4.2.1 and Fig. 5. As released, convolutions keep their bias before a norm, each block ends with
an activation *before* the addition, and the projector has none.

Shapes: N images, C channels, H x W the feature map.
"""

from dense_d2.modeling.layers import make_activation, make_norm

from fvcore.nn import weight_init
from torch import nn

__all__ = ["DilatedBlock", "DilatedEncoder"]


class DilatedBlock(nn.Module):
    """1x1, dilated 3x3 and 1x1 convolution, each with norm and activation, around a shortcut."""

    def __init__(self, channels, mid_channels, dilation, *, norm="BN", activation="ReLU", shortcut=True):
        super().__init__()
        self.shortcut = shortcut

        def layer(in_channels, out_channels, **kwargs):
            conv = nn.Conv2d(in_channels, out_channels, **kwargs)
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)
            return nn.Sequential(conv, make_norm(norm, out_channels), make_activation(activation))

        self.conv1 = layer(channels, mid_channels, kernel_size=1)
        self.conv2 = layer(mid_channels, mid_channels, kernel_size=3, padding=dilation, dilation=dilation)
        self.conv3 = layer(mid_channels, channels, kernel_size=1)

    def forward(self, x):
        out = self.conv3(self.conv2(self.conv1(x)))
        return out + x if self.shortcut else out


class DilatedEncoder(nn.Module):
    """Turns the last feature map of the backbone into the one map that the decoder reads."""

    def __init__(
        self,
        *,
        in_channels=2048,
        channels=512,
        block_mid_channels=128,
        block_dilations=(2, 4, 6, 8),
        shortcut=True,
        norm="BN",
        activation="ReLU",
    ):
        """
        Args:
            in_channels: C of the backbone's feature map.
            channels: C of the output.
            block_mid_channels: C inside a residual block.
            block_dilations: one dilation a block; an empty list leaves the projector alone.
            shortcut: whether blocks add their input (Table 5c).
            norm: see `detectron2.layers.get_norm`.
            activation: "ReLU" or "LeakyReLU".
        """
        super().__init__()
        self.in_channels = in_channels
        self.lateral_conv = nn.Conv2d(in_channels, channels, kernel_size=1)
        self.lateral_norm = make_norm(norm, channels)
        self.fpn_conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.fpn_norm = make_norm(norm, channels)
        weight_init.c2_xavier_fill(self.lateral_conv)
        weight_init.c2_xavier_fill(self.fpn_conv)
        self.dilated_encoder_blocks = nn.Sequential(
            *(
                DilatedBlock(
                    channels, block_mid_channels, dilation, norm=norm, activation=activation, shortcut=shortcut
                )
                for dilation in block_dilations
            )
        )

    def forward(self, feature):
        """(N, in_channels, H, W) -> (N, channels, H, W)."""
        x = self.lateral_norm(self.lateral_conv(feature))
        return self.dilated_encoder_blocks(self.fpn_norm(self.fpn_conv(x)))
