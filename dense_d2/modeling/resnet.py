"""Stages of the ResNets and ResNeXts that Detectron2's `make_default_stages` cannot express.

Source: He et al. 2016; Xie et al. 2017 (groups); R-FCN's convention for the dilated fifth stage.
"""

from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet

__all__ = ["make_resnet_stages"]

NUM_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def make_resnet_stages(
    depth, *, num_groups=1, width_per_group=64, stride_in_1x1=True, res5_dilation=1, norm="FrozenBN"
):
    """Stages res2 to res5 for Detectron2's `ResNet`, the same as its yacs builder makes.

    Args:
        depth: 50, 101 or 152.
        num_groups, width_per_group: 1 and 64 for ResNet, 64 and 4 for ResNeXt-64x4d.
        stride_in_1x1: whether a stage's stride is in the first 1x1 convolution (MSRA, Caffe) or in the 3x3 one.
        res5_dilation: 1, or 2 for DC5: res5 keeps stride 16 and every 3x3 convolution in it, the first too, has dilation 2.
        norm: see `detectron2.layers.get_norm`.
    Returns:
        list of four lists of blocks.
    """
    if depth not in NUM_BLOCKS or res5_dilation not in (1, 2):
        raise ValueError(
            f"depth={depth}, res5_dilation={res5_dilation}: depth must be one of {sorted(NUM_BLOCKS)}, dilation 1 or 2"
        )
    stages, in_channels = [], 64
    for i, num_blocks in enumerate(NUM_BLOCKS[depth]):
        dilation = res5_dilation if i == 3 else 1
        stride = 1 if i == 0 or dilation > 1 else 2
        stages.append(
            ResNet.make_stage(
                BottleneckBlock,
                num_blocks,
                stride_per_block=[stride] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=256 * 2**i,
                bottleneck_channels=num_groups * width_per_group * 2**i,
                num_groups=num_groups,
                stride_in_1x1=stride_in_1x1,
                dilation=dilation,
                norm=norm,
            )
        )
        in_channels = 256 * 2**i
    return stages
