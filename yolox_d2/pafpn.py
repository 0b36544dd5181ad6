"""The path-aggregation neck of YOLOX: a top-down and a bottom-up path of CSP blocks.

Source: YOLOX, section 2.2 ("PAN head"), after YOLOv5; the released code for everything in it.
"""

from dense_d2.modeling.yolov3_fpn import upsample_concat

import torch
from detectron2.modeling import Backbone

from .cspdarknet import CSPBlock, block_factory

__all__ = ["YOLOXPAFPN"]


class YOLOXPAFPN(Backbone):
    """Outputs "p3", "p4" and "p5", with strides and channels of the maps of `bottom_up` that it takes."""

    def __init__(
        self,
        *,
        bottom_up,
        in_features=("dark3", "dark4", "dark5"),
        depth,
        depthwise=False,
        norm="BN",
        norm_eps=1e-3,
        norm_momentum=0.03,
        activation="SiLU",
    ):
        """
        Args:
            bottom_up: backbone.
            in_features: three of its outputs, high resolution first, each half the size of the one before and with twice
                the channels.
            depth: factor on the number of bottlenecks of a CSP block: 3 at 1.0.
            depthwise, norm, norm_eps, norm_momentum, activation: see `block_factory`.
        """
        super().__init__()
        shapes = [bottom_up.output_shape()[name] for name in in_features]
        c3, c4, c5 = channels = [shape.channels for shape in shapes]
        if [c4, c5] != [2 * c3, 2 * c4]:
            raise ValueError(
                f"in_features={list(in_features)} have {channels} channels; each must double the one before"
            )
        plain, spatial = block_factory(
            depthwise=depthwise, norm=norm, norm_eps=norm_eps, norm_momentum=norm_momentum, activation=activation
        )

        def fuse(in_channels, out_channels):
            return CSPBlock(in_channels, out_channels, round(3 * depth), False, plain, spatial)

        self.bottom_up, self.in_features = bottom_up, list(in_features)
        self.reduce5, self.fpn4 = plain(c5, c4, 1), fuse(2 * c4, c4)
        self.reduce4, self.fpn3 = plain(c4, c3, 1), fuse(2 * c3, c3)
        self.down3, self.pan4 = spatial(c3, c3, 3, 2), fuse(2 * c3, c4)
        self.down4, self.pan5 = spatial(c4, c4, 3, 2), fuse(2 * c4, c5)
        self._out_features = ["p3", "p4", "p5"]
        self._out_feature_channels = dict(zip(self._out_features, channels))
        self._out_feature_strides = {name: shape.stride for name, shape in zip(self._out_features, shapes)}

    @property
    def size_divisibility(self):
        return max(self._out_feature_strides.values())

    def forward(self, x):
        """(N, 3, H, W) -> dict of feature maps."""
        features = self.bottom_up(x)
        c3, c4, c5 = (features[name] for name in self.in_features)
        reduced5 = self.reduce5(c5)
        reduced4 = self.reduce4(self.fpn4(upsample_concat(reduced5, c4)))
        p3 = self.fpn3(upsample_concat(reduced4, c3))
        p4 = self.pan4(torch.cat([self.down3(p3), reduced4], dim=1))
        p5 = self.pan5(torch.cat([self.down4(p4), reduced5], dim=1))
        return {"p3": p3, "p4": p4, "p5": p5}
