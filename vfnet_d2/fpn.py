"""The feature pyramid of VFNet and its baselines: Detectron2's FPN with the two further levels that each of them wants.

Source: VFNet's released code (P6 from P5, ReLU before P7); mmdetection for its baselines, whose variants are arguments.
"""

from dense_d2.modeling.layers import make_norm
from dense_d2.modeling.resnet import get_backbone_norm, make_resnet_stages

from detectron2.layers import Conv2d
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone import BasicStem, ResNet
from torch import nn
from torch.nn import functional as F

__all__ = ["LevelsP6P7", "VFNetFPN", "build_vfnet_resnet_fpn_backbone", "init_xavier"]


class LevelsP6P7(nn.Module):
    """P6 and P7 by 3x3 convolutions of stride 2: Detectron2's `LastLevelP6P7` with a choice of ReLU and norm."""

    num_levels = 2

    def __init__(self, in_channels, out_channels, in_feature="p5", relu_before_p7=True, norm=""):
        super().__init__()
        self.in_feature, self.relu_before_p7 = in_feature, relu_before_p7
        self.p6 = _strided_conv(in_channels, out_channels, norm)
        self.p7 = _strided_conv(out_channels, out_channels, norm)

    def forward(self, x):
        """(N, C, H, W) -> [P6, P7]. P6 never sees a ReLU before it, and P7 is made of what P6 hands out."""
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6) if self.relu_before_p7 else p6)]


def _strided_conv(in_channels, out_channels, norm):
    return Conv2d(in_channels, out_channels, 3, 2, 1, bias=norm == "", norm=make_norm(norm, out_channels))


class VFNetFPN(FPN):
    """Outputs "p3" to "p7", strides 8 to 128."""

    def __init__(
        self,
        bottom_up,
        in_features=("res3", "res4", "res5"),
        out_channels=256,
        norm="",
        top_in_feature="p5",
        relu_before_p7=True,
    ):
        """
        Args:
            bottom_up: backbone.
            in_features: its outputs of stride 8, 16 and 32.
            norm: of every convolution, see `detectron2.layers.get_norm`; none, as in VFNet, for biases instead.
            top_in_feature: what P6 is made of: "p5", or the last of `in_features` (RetinaNet, FoveaBox, RepPoints).
            relu_before_p7: false in ATSS and RetinaNet.
        """
        shapes = bottom_up.output_shape()
        strides = [shapes[name].stride if name in shapes else None for name in in_features]
        if strides != [8, 16, 32] or top_in_feature not in ("p5", in_features[-1]):
            raise ValueError(
                f"in_features is {list(in_features)} with strides {strides}, of a backbone with {list(shapes)}, and "
                f"top_in_feature is {top_in_feature!r}; list the maps of strides 8, 16 and 32, and give 'p5' or the last of them"
            )
        top_channels = out_channels if top_in_feature == "p5" else shapes[top_in_feature].channels
        top_block = LevelsP6P7(top_channels, out_channels, top_in_feature, relu_before_p7, norm)
        super().__init__(bottom_up, list(in_features), out_channels, norm=norm, top_block=top_block)
        for name, child in self.named_children():
            if name != "bottom_up":
                init_xavier(child)


def init_xavier(module):
    """Weights of every plain convolution inside from Xavier's uniform distribution, biases 0, as mmdetection's necks."""
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            nn.init.xavier_uniform_(child.weight)
            if child.bias is not None:
                nn.init.zeros_(child.bias)


@BACKBONE_REGISTRY.register()
def build_vfnet_resnet_fpn_backbone(cfg, input_shape):
    """ResNet or ResNeXt and VFNet's pyramid, from the keys `MODEL.RESNETS`, `MODEL.FPN` and `MODEL.BACKBONE.FREEZE_AT`.

    `MODEL.RESNETS.NORM` may also be "StatFrozenBN". Stages in `MODEL.RESNETS.DEFORM_ON_PER_STAGE` are always modulated.
    """
    resnets = cfg.MODEL.RESNETS
    bottom_up = ResNet(
        stem=BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, get_backbone_norm(resnets.NORM)),
        stages=make_resnet_stages(
            resnets.DEPTH,
            num_groups=resnets.NUM_GROUPS,
            width_per_group=resnets.WIDTH_PER_GROUP,
            stride_in_1x1=resnets.STRIDE_IN_1X1,
            norm=resnets.NORM,
            deform_on_per_stage=resnets.DEFORM_ON_PER_STAGE,
        ),
        out_features=resnets.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
    return VFNetFPN(bottom_up, cfg.MODEL.FPN.IN_FEATURES, cfg.MODEL.FPN.OUT_CHANNELS, cfg.MODEL.FPN.NORM)
