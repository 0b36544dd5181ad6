"""Stages of the ResNets and ResNeXts that Detectron2's `make_default_stages` cannot express.

Source: He et al. 2016; Xie et al. 2017 (groups); R-FCN's convention for the dilated fifth stage; Zhu et al. 2019 (modulated
deformable convolution).
"""

from detectron2.layers import get_norm
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock, ResNet

from .deform_conv import ModulatedDeformConv2d
from .frozen_norm import StatFrozenBN

__all__ = ["DeformBottleneckBlock", "get_backbone_norm", "make_resnet_stages"]

NUM_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def get_backbone_norm(norm):
    """What `detectron2.layers.get_norm` takes for `norm`: itself, or the class for "StatFrozenBN"."""
    return StatFrozenBN if norm == "StatFrozenBN" else norm


class DeformBottleneckBlock(BottleneckBlock):
    """A bottleneck whose 3x3 convolution, strided or grouped as it may be, is a modulated deformable one.

    Detectron2's block of this name needs compiled operators. Here the predictor of the offsets is `conv2.conv_offset`.
    """

    def __init__(self, in_channels, out_channels, *, norm="BN", **kwargs):
        super().__init__(in_channels, out_channels, norm=norm, **kwargs)
        plain = self.conv2
        self.conv2 = ModulatedDeformConv2d(
            plain.in_channels,
            plain.out_channels,
            kernel_size=3,
            stride=plain.stride[0],
            padding=plain.padding[0],
            dilation=plain.dilation[0],
            groups=plain.groups,
            norm=get_norm(norm, plain.out_channels),
        )
        self.conv2.weight = plain.weight


def make_resnet_stages(
    depth,
    *,
    num_groups=1,
    width_per_group=64,
    stride_in_1x1=True,
    res5_dilation=1,
    norm="FrozenBN",
    base_channels=64,
    deform_on_per_stage=(False, False, False, False),
):
    """Stages res2 to res5 for Detectron2's `ResNet`, the same as its yacs builder makes.

    Args:
        depth: 18 or 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        num_groups, width_per_group: 1 and 64 for ResNet, 64 and 4 for ResNeXt-64x4d; bottlenecks only.
        stride_in_1x1: whether a stage's stride is in the first 1x1 convolution (MSRA, Caffe) or in the 3x3 one.
        res5_dilation: 1, or 2 for DC5: res5 keeps stride 16 and each of its 3x3 convolutions, the first too, has
            dilation 2.
        norm: see `detectron2.layers.get_norm`, or "StatFrozenBN".
        base_channels: of the stem's output, and of res2 with basic blocks; less than 64 makes a thin network.
        deform_on_per_stage: which of res2 to res5 are made of `DeformBottleneckBlock`.
    Returns:
        list of four lists of blocks.
    """
    deep_only = res5_dilation == 2 or any(deform_on_per_stage)
    if depth not in NUM_BLOCKS or res5_dilation not in (1, 2) or (depth < 50 and deep_only):
        raise ValueError(
            f"depth={depth}, res5_dilation={res5_dilation}, deform_on_per_stage={list(deform_on_per_stage)}: depth must be "
            f"one of {sorted(NUM_BLOCKS)}, dilation 1, or 2 from depth 50; deformable stages too start at depth 50"
        )
    norm = get_backbone_norm(norm)
    stages, in_channels = [], base_channels
    for i, num_blocks in enumerate(NUM_BLOCKS[depth]):
        dilation = res5_dilation if i == 3 else 1
        stride = 1 if i == 0 or dilation > 1 else 2
        block, options = BasicBlock, {"norm": norm, "out_channels": base_channels * 2**i}
        if depth >= 50:
            block = DeformBottleneckBlock if deform_on_per_stage[i] else BottleneckBlock
            options.update(
                out_channels=256 * 2**i,
                bottleneck_channels=num_groups * width_per_group * 2**i,
                num_groups=num_groups,
                stride_in_1x1=stride_in_1x1,
                dilation=dilation,
            )
        stages.append(
            ResNet.make_stage(
                block,
                num_blocks,
                stride_per_block=[stride] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                **options,
            )
        )
        in_channels = options["out_channels"]
    return stages
