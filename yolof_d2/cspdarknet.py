"""CSPDarkNet-53, the backbone of YOLOF's YOLOv4-style recipe.

Source: YOLOv4's CSPDarknet-53 as YOLOF released it; parameters are named as in its checkpoints. Every convolution has
no bias, and norm and Mish behind it.
"""

from dense_d2.modeling.layers import make_activation, make_norm

import torch
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from fvcore.nn import weight_init
from torch import nn

__all__ = ["CSPDarkNet", "build_yolof_cspdarknet_backbone"]

NUM_BLOCKS = (1, 2, 8, 8, 4)


class ConvFactory:
    """Makes the convolutions and norms of one network, all in the same way."""

    def __init__(self, norm, norm_eps, norm_momentum):
        self.norm_args = (norm, norm_eps, norm_momentum)

    def norm(self, channels):
        name, eps, momentum = self.norm_args
        return make_norm(name, channels, eps=eps, momentum=momentum)

    def conv(self, in_channels, out_channels, kernel_size=1, stride=1, dilation=1):
        padding = dilation * (kernel_size // 2)
        conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding=padding, dilation=dilation, bias=False)
        weight_init.c2_msra_fill(conv)
        return conv

    def layer(self, in_channels, out_channels, **kwargs):
        """Convolution, norm, Mish."""
        conv = self.conv(in_channels, out_channels, **kwargs)
        return nn.Sequential(conv, self.norm(out_channels), make_activation("Mish"))


class DarkBlock(nn.Module):
    """1x1 and 3x3 convolution around a shortcut, with the activation before the addition."""

    def __init__(self, make, in_channels, channels, mid_channels, dilation):
        """`in_channels`: where given, the block starts with a 1x1 layer from that many, which splits the stage."""
        super().__init__()
        self.downsample = make.layer(in_channels, channels) if in_channels else nn.Identity()
        self.conv1, self.bn1 = make.conv(channels, mid_channels), make.norm(mid_channels)
        self.conv2 = make.conv(mid_channels, channels, kernel_size=3, dilation=dilation)
        self.bn2 = make.norm(channels)
        self.activation = make_activation("Mish")

    def forward(self, x):
        x = self.downsample(x)
        out = self.activation(self.bn1(self.conv1(x)))
        return x + self.activation(self.bn2(self.conv2(out)))


class CSPStage(nn.Module):
    """A cross-stage-partial stage: a 3x3 layer, a branch of residual blocks beside a 1x1 branch, and their fusion."""

    def __init__(self, make, in_channels, channels, num_blocks, *, stride=2, dilation=1, split=True):
        """
        Args:
            make: ConvFactory.
            in_channels, channels: C before and after.
            num_blocks: residual blocks.
            stride, dilation: of the first layer; `dilation` of the blocks' 3x3 layers too.
            split: whether each branch has half of the channels (all stages but the first).
        """
        super().__init__()
        branch = channels // 2 if split else channels
        mid_channels = branch if split else channels // 2
        self.base_layer = make.layer(in_channels, channels, kernel_size=3, stride=stride, dilation=dilation)
        self.partial_transition1 = make.layer(channels, branch)
        self.stage_layers = nn.Sequential(
            *(DarkBlock(make, channels if i == 0 else None, branch, mid_channels, dilation) for i in range(num_blocks))
        )
        self.partial_transition2 = make.layer(branch, branch)
        self.fuse_transition = make.layer(2 * branch, channels)

    def forward(self, x):
        x = self.base_layer(x)
        blocks = self.partial_transition2(self.stage_layers(x))
        return self.fuse_transition(torch.cat([blocks, self.partial_transition1(x)], dim=1))


class CSPDarkNet(Backbone):
    """Outputs "res1" to "res5", of stride 2 to 32 (res5: 16 where it is dilated) and 64 to 1024 channels."""

    def __init__(
        self,
        *,
        out_features=("res5",),
        norm="SyncBN",
        norm_eps=1e-4,
        norm_momentum=0.03,
        res5_dilation=1,
        freeze_at=2,
    ):
        """
        Args:
            out_features: names of the outputs.
            norm, norm_eps, norm_momentum: see `detectron2.layers.get_norm`. "SyncBN" needs GPUs if there are several
                processes.
            res5_dilation: 1, or 2 for DC5: res5 keeps stride 16, its 3x3 convolutions have dilation 2.
            freeze_at: 0 for nothing; n freezes the stem and the first n stages. Only their parameters: the running
                statistics of their norms still move, as released.
        """
        super().__init__()
        make = ConvFactory(norm, norm_eps, norm_momentum)
        self._out_features = list(out_features)
        self._out_feature_channels, self._out_feature_strides = {}, {}
        self.conv1, self.bn1, self.activation = make.conv(3, 32, kernel_size=3), make.norm(32), make_activation("Mish")
        in_channels, stride = 32, 1
        for i, num_blocks in enumerate(NUM_BLOCKS, start=1):
            dilation = res5_dilation if i == 5 else 1
            stage_stride = 1 if dilation > 1 else 2
            channels = 32 * 2**i
            self.add_module(
                f"layer{i}",
                CSPStage(make, in_channels, channels, num_blocks, stride=stage_stride, dilation=dilation, split=i > 1),
            )
            in_channels, stride = channels, stride * stage_stride
            self._out_feature_channels[f"res{i}"] = channels
            self._out_feature_strides[f"res{i}"] = stride
        if not set(self._out_features) <= set(self._out_feature_strides):
            raise ValueError(f"out_features={self._out_features}; choose from {sorted(self._out_feature_strides)}")

        frozen = [self.conv1, self.bn1] + [getattr(self, f"layer{i}") for i in range(1, freeze_at + 1)]
        for module in frozen if freeze_at else ():
            module.requires_grad_(False)

    def forward(self, x):
        """(N, 3, H, W) -> dict of feature maps."""
        outputs = {}
        x = self.activation(self.bn1(self.conv1(x)))
        for i in range(1, len(NUM_BLOCKS) + 1):
            x = getattr(self, f"layer{i}")(x)
            if f"res{i}" in self._out_features:
                outputs[f"res{i}"] = x
        return outputs


@BACKBONE_REGISTRY.register()
def build_yolof_cspdarknet_backbone(cfg, input_shape):
    """CSPDarkNet of a yacs config with `add_yolof_config`; takes images of three channels."""
    darknet = cfg.MODEL.YOLOF.CSPDARKNET
    return CSPDarkNet(
        out_features=darknet.OUT_FEATURES,
        norm=darknet.NORM,
        res5_dilation=darknet.RES5_DILATION,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
    )
