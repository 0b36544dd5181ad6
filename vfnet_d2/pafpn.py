"""The neck of VFNet-X: a path-aggregation pyramid with deformable convolutions and GroupNorm, no activations.

Source: VFNet's released code (PAFPNX); the paper, section 4.5, names it only. Unlike PAFPN, the finest level passes an output
convolution too.
"""

from dense_d2.modeling.deform_conv import ModulatedDeformConv2d
from dense_d2.modeling.layers import make_norm
from dense_d2.modeling.res2net import build_res2net_backbone

from detectron2.config import configurable
from detectron2.layers import Conv2d
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from torch import nn
from torch.nn import functional as F

from .fpn import init_xavier

__all__ = ["PAFPNX"]


@BACKBONE_REGISTRY.register()
class PAFPNX(Backbone):
    """Outputs "p3" to "p7", strides 8 to 128. From yacs, it stands on a Res2Net."""

    @configurable
    def __init__(self, *, bottom_up, in_features=("res3", "res4", "res5"), out_channels=384, norm="GN"):
        """
        Args:
            bottom_up: backbone.
            in_features: its outputs of stride 8, 16 and 32.
            out_channels: of every level; GroupNorm wants a multiple of 32.
            norm: of every convolution but the lateral ones.
        """
        super().__init__()
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride for name in in_features]
        if strides != [8, 16, 32]:
            raise ValueError(f"in_features={list(in_features)} have strides {strides}; name those of 8, 16 and 32")
        self.in_features = list(in_features)

        def conv(stride=1):
            return Conv2d(out_channels, out_channels, 3, stride, 1, bias=False, norm=make_norm(norm, out_channels))

        def deform_conv():
            return ModulatedDeformConv2d(
                out_channels, out_channels, kernel_size=3, padding=1, norm=make_norm(norm, out_channels)
            )

        self.lateral_convs = nn.ModuleList(Conv2d(shapes[name].channels, out_channels, 1) for name in in_features)
        self.fpn_convs = nn.ModuleList([conv(), conv(), conv(), conv(stride=2), conv(stride=2)])
        self.downsample_convs = nn.ModuleList([conv(stride=2), conv(stride=2)])
        self.pafpn_convs = nn.ModuleList([deform_conv(), deform_conv(), deform_conv()])
        # as released, also over the offset predictors: here, and only here, they do not start at zero
        init_xavier(self)
        self.bottom_up = bottom_up

        names = ["p3", "p4", "p5", "p6", "p7"]
        self._out_features = names
        self._out_feature_channels = dict.fromkeys(names, out_channels)
        self._out_feature_strides = dict(zip(names, (8, 16, 32, 64, 128)))

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            "bottom_up": build_res2net_backbone(cfg, input_shape),
            "in_features": cfg.MODEL.FPN.IN_FEATURES,
            "out_channels": cfg.MODEL.FPN.OUT_CHANNELS,
            "norm": cfg.MODEL.FPN.NORM,
        }

    @property
    def size_divisibility(self):
        return 32

    def forward(self, x):
        """(N, 3, H, W) -> dict of feature maps."""
        features = self.bottom_up(x)
        maps = [conv(features[name]) for conv, name in zip(self.lateral_convs, self.in_features)]
        for i in (1, 0):
            maps[i] = maps[i] + F.interpolate(maps[i + 1], size=maps[i].shape[-2:], mode="nearest")
        maps = [conv(x) for conv, x in zip(self.fpn_convs, maps)]
        for i in (0, 1):
            maps[i + 1] = maps[i + 1] + self.downsample_convs[i](maps[i])
        maps = [conv(x) for conv, x in zip(self.pafpn_convs, maps)]
        maps.append(self.fpn_convs[3](maps[2]))
        maps.append(self.fpn_convs[4](F.relu(maps[3])))
        return dict(zip(self._out_features, maps))
