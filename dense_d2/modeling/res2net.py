"""Res2Net v1d: bottlenecks whose 3x3 convolution is a hierarchy of smaller ones, a deep stem, averaging shortcuts.

Source: Gao et al. 2019, "Res2Net"; its released v1d weights (Res2Net-101, 26w x 4s).

Shapes: w channels in each of `scales` splits of a block.
"""

import fvcore.nn.weight_init as weight_init
import torch
import torch.nn.functional as F
from detectron2.layers import CNNBlockBase, Conv2d, get_norm
from detectron2.modeling import BACKBONE_REGISTRY
from detectron2.modeling.backbone.resnet import ResNet
from torch import nn

from .deform_conv import ModulatedDeformConv2d
from .resnet import NUM_BLOCKS, get_backbone_norm

__all__ = ["DeepStem", "Res2NetBlock", "build_res2net_backbone", "make_res2net_stages"]


def _conv(in_channels, out_channels, kernel_size, norm, stride=1):
    padding = (kernel_size - 1) // 2
    conv = Conv2d(
        in_channels, out_channels, kernel_size, stride, padding, bias=False, norm=get_norm(norm, out_channels)
    )
    weight_init.c2_msra_fill(conv)
    return conv


class DeepStem(CNNBlockBase):
    """Three 3x3 convolutions, the first of stride 2, then max pooling: stride 4."""

    def __init__(self, in_channels=3, out_channels=64, norm="BN"):
        super().__init__(in_channels, out_channels, 4)
        norm, width = get_backbone_norm(norm), out_channels // 2
        self.conv1 = _conv(in_channels, width, 3, norm, stride=2)
        self.conv2 = _conv(width, width, 3, norm)
        self.conv3 = _conv(width, out_channels, 3, norm)

    def forward(self, x):
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.relu_(conv(x))
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


class Res2NetBlock(CNNBlockBase):
    """1x1 convolution, `scales` splits of which all but the last pass a 3x3 one, 1x1 convolution, shortcut.

    Every split is added to the result of the one before it, except in the first block of a stage, where the last split is
    average-pooled by the stride instead of passed on.
    """

    def __init__(self, in_channels, out_channels, *, width, scales=4, stride=1, is_first, deform=False, norm="BN"):
        """
        Args:
            width: w.
            scales: number of splits.
            is_first: whether the block opens a stage, whatever its stride; it then has a convolution in the shortcut.
            deform: make the 3x3 convolutions modulated deformable ones.
        """
        super().__init__(in_channels, out_channels, stride)
        self.width, self.is_first = width, is_first
        self.conv1 = _conv(in_channels, scales * width, 1, norm)
        self.convs = nn.ModuleList(_conv(width, width, 3, norm, stride) for _ in range(scales - 1))
        if deform:
            for i, plain in enumerate(self.convs):
                self.convs[i] = ModulatedDeformConv2d(width, width, 3, stride, padding=1, norm=plain.norm)
                self.convs[i].weight = plain.weight
        self.conv3 = _conv(scales * width, out_channels, 1, norm)
        self.shortcut = _conv(in_channels, out_channels, 1, norm) if is_first else None

    def forward(self, x):
        *splits, last = F.relu_(self.conv1(x)).split(self.width, dim=1)
        outs = []
        for split, conv in zip(splits, self.convs):
            outs.append(F.relu_(conv(split if self.is_first or not outs else outs[-1] + split)))
        outs.append(F.avg_pool2d(last, 3, self.stride, padding=1) if self.stride > 1 else last)
        out = self.conv3(torch.cat(outs, dim=1))
        if self.shortcut is not None:
            if self.stride > 1:
                x = F.avg_pool2d(x, self.stride, self.stride, ceil_mode=True, count_include_pad=False)
            x = self.shortcut(x)
        out += x
        return F.relu_(out)


def make_res2net_stages(
    depth=101, *, base_width=26, scales=4, norm="FrozenBN", deform_on_per_stage=(False, False, False, False)
):
    """Stages res2 to res5 for Detectron2's `ResNet`, whose stem should be a `DeepStem`.

    Args:
        depth: 50, 101 or 152.
        base_width, scales: 26 and 4 for "26w x 4s"; w = base_width, doubled with every stage.
        norm: see `detectron2.layers.get_norm`, or "StatFrozenBN".
        deform_on_per_stage: which of res2 to res5 have deformable convolutions.
    Returns:
        list of four lists of blocks.
    """
    if depth not in (50, 101, 152):
        raise ValueError(f"depth is {depth}; a Res2Net has 50, 101 or 152 layers")
    stages, in_channels = [], 64
    for i, num_blocks in enumerate(NUM_BLOCKS[depth]):
        stages.append(
            ResNet.make_stage(
                Res2NetBlock,
                num_blocks,
                in_channels=in_channels,
                out_channels=256 * 2**i,
                stride_per_block=[1 if i == 0 else 2] + [1] * (num_blocks - 1),
                is_first_per_block=[True] + [False] * (num_blocks - 1),
                width=base_width * 2**i,
                scales=scales,
                deform=deform_on_per_stage[i],
                norm=get_backbone_norm(norm),
            )
        )
        in_channels = 256 * 2**i
    return stages


@BACKBONE_REGISTRY.register()
def build_res2net_backbone(cfg, input_shape):
    """Res2Net v1d 26w x 4s from the keys `MODEL.RESNETS` and `MODEL.BACKBONE.FREEZE_AT`."""
    resnets = cfg.MODEL.RESNETS
    return ResNet(
        stem=DeepStem(input_shape.channels, norm=resnets.NORM),
        stages=make_res2net_stages(resnets.DEPTH, norm=resnets.NORM, deform_on_per_stage=resnets.DEFORM_ON_PER_STAGE),
        out_features=resnets.OUT_FEATURES,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
