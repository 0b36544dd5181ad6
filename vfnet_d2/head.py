"""The head of VFNet: towers shared by all levels, a box branch, a star convolution, a refined box, IoU-aware class scores.

Source: VarifocalNet, section 3.4 and figure 3. Where paper and released code differ, the code: it has the published AP (41.6).
Paper: convolution and ReLU, boxes refined by residuals. Code: convolution, GroupNorm and ReLU; the initial box is an
exponential times a constant of the level, the refined one an exponential times the detached initial one.

Shapes: N images, C channels, Hi x Wi the map of level i, K classes. The box of a location is (left, top, right, bottom):
distances to its sides in pixels of the network input.
"""

from typing import List, NamedTuple, Optional

from dense_d2.modeling.deform_conv import ModulatedDeformConv2d
from dense_d2.modeling.layers import ConvBlock, bias_of

import torch
from torch import nn
from torch.nn import functional as F

from .star_conv import StarConv2d, star_offsets

__all__ = ["VFNetHead", "VFNetPredictions", "conv_tower", "init_head", "level_scales"]

REG_DENOM_STRIDES = 8
"""Upper ends of FCOS's regression ranges (64, 128, 256, 512 pixels), and twice 512 on the last level, in strides."""


class VFNetPredictions(NamedTuple):
    """One tensor a level, high resolution first."""

    logits: List[torch.Tensor]
    """(N, K, Hi, Wi)."""
    ltrb: List[torch.Tensor]
    """(N, 4, Hi, Wi) float32, the initial boxes."""
    refined_ltrb: Optional[List[torch.Tensor]]
    """(N, 4, Hi, Wi) float32; None in a head that does not refine."""
    centerness: Optional[List[torch.Tensor]]
    """(N, 1, Hi, Wi) logits; None in a head without that branch."""


class VFNetHead(nn.Module):
    """Maps a list of feature maps to `VFNetPredictions`.

    Without `star_conv` and `refine` it is the paper's "raw" VFNet (Table 3), where a plain block takes the place of the
    class branch's star convolution; `centerness` adds the branch of the FCOS+ATSS baseline to it.
    """

    def __init__(
        self,
        *,
        in_channels=256,
        feat_channels=256,
        num_convs=3,
        num_classes=80,
        strides=(8, 16, 32, 64, 128),
        bbox_norm="reg_denom",
        deform_last_conv=False,
        star_conv=True,
        refine=True,
        centerness=False,
        gradient_mul=0.1,
        norm="GN",
        prior_prob=0.01,
        max_exponent=None,
    ):
        """
        Args:
            in_channels: of every feature map.
            feat_channels: C; GroupNorm wants a multiple of 32.
            num_convs: blocks in each tower.
            num_classes: K.
            strides: pixels a cell, one a level.
            bbox_norm: unit of the initial boxes: "reg_denom", 8 strides, or "stride".
            deform_last_conv: makes the last convolution of both towers a modulated deformable one.
            star_conv: takes class scores from features at the star of the initial box.
            refine: predicts a second box from such features; needs `star_conv`.
            centerness: predicts centerness beside the classes.
            gradient_mul: see `star_offsets`.
            norm: of every block, see `detectron2.layers.get_norm`.
            prior_prob: score of every class before training.
            max_exponent: upper bound of what the exponentials take; None, as released, for no bound.
        """
        super().__init__()
        if refine and not star_conv:
            raise ValueError("refine=True needs the features of star_conv=True; set both, or neither")
        if bbox_norm not in ("reg_denom", "stride"):
            raise ValueError(f"bbox_norm is {bbox_norm!r}; use 'reg_denom' or 'stride'")
        self.strides = tuple(strides)
        self.box_units = [stride * (REG_DENOM_STRIDES if bbox_norm == "reg_denom" else 1) for stride in self.strides]
        self.num_classes = num_classes
        self.star_conv, self.refine, self.centerness = star_conv, refine, centerness
        self.gradient_mul = gradient_mul
        self.max_exponent = max_exponent

        channels = feat_channels
        self.cls_convs = conv_tower(in_channels, channels, num_convs, norm)
        self.reg_convs = conv_tower(in_channels, channels, num_convs, norm)
        self.vfnet_reg_conv = _block(channels, channels, norm)
        self.vfnet_reg = nn.Conv2d(channels, 4, 3, padding=1)
        self.scales = level_scales(self.strides)
        if refine:
            self.vfnet_reg_refine_dconv = StarConv2d(channels, channels)
            self.vfnet_reg_refine = nn.Conv2d(channels, 4, 3, padding=1)
            self.scales_refine = level_scales(self.strides)
        if star_conv:
            self.vfnet_cls_dconv = StarConv2d(channels, channels)
        else:
            self.vfnet_cls_conv = _block(channels, channels, norm)
        self.vfnet_cls = nn.Conv2d(channels, num_classes, 3, padding=1)
        if centerness:
            self.vfnet_centerness = nn.Conv2d(channels, 1, 3, padding=1)

        init_head(self, self.vfnet_cls, prior_prob)
        if deform_last_conv:  # after the line above: these keep their own initialisation, as released
            for tower in (self.cls_convs, self.reg_convs):
                conv = tower[-1].conv
                tower[-1].conv = ModulatedDeformConv2d(conv.in_channels, channels, kernel_size=3, padding=1)

    def forward(self, features):
        """Args: features, a list of (N, C, Hi, Wi)."""
        if len(features) != len(self.strides):
            raise ValueError(f"the head has {len(self.strides)} strides but got {len(features)} feature maps")
        levels = [self._forward_level(x, i) for i, x in enumerate(features)]
        columns = [list(column) for column in zip(*levels)]
        return VFNetPredictions(*(None if column[0] is None else column for column in columns))

    def _forward_level(self, x, level):
        reg_features, cls_features = self.reg_convs(x), self.cls_convs(x)
        exponent = self.vfnet_reg(self.vfnet_reg_conv(reg_features))
        ltrb = self._exp(exponent, self.scales[level]) * self.box_units[level]
        refined = None
        if self.star_conv:
            offsets = star_offsets(ltrb, self.strides[level], self.gradient_mul)
            if self.refine:
                exponent = self.vfnet_reg_refine(F.relu(self.vfnet_reg_refine_dconv(reg_features, offsets)))
                refined = self._exp(exponent, self.scales_refine[level]) * ltrb.detach()
            cls_features = F.relu(self.vfnet_cls_dconv(cls_features, offsets))
        else:
            cls_features = self.vfnet_cls_conv(cls_features)
        centerness = self.vfnet_centerness(cls_features) if self.centerness else None
        return self.vfnet_cls(cls_features), ltrb, refined, centerness

    def _exp(self, x, scale):
        """exp(scale * x) in float32: half precision would lose whole pixels of a large box."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            exponent = scale * x.float()
            if self.max_exponent is not None:
                exponent = exponent.clamp(max=self.max_exponent)
            return exponent.exp()


def _block(in_channels, out_channels, norm):
    return ConvBlock(in_channels, out_channels, 3, norm=norm, activation="ReLU")


def conv_tower(in_channels, channels, num_convs, norm):
    """Blocks of 3x3 convolution without bias, norm, ReLU."""
    return nn.Sequential(*(_block(in_channels if i == 0 else channels, channels, norm) for i in range(num_convs)))


def level_scales(strides):
    """One learnable factor a level."""
    return nn.ParameterList(nn.Parameter(torch.ones(())) for _ in strides)


def init_head(head, cls_layer, prior_prob):
    """Weights of every plain convolution from N(0, 0.01^2), biases 0; but scores of `cls_layer` start at `prior_prob`."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=0.01)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    nn.init.constant_(cls_layer.bias, bias_of(prior_prob))
