"""Batch norms merged into the convolutions before them, for inference."""

import copy

import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from .layers import ConvBlock

__all__ = ["fuse_conv_bn"]

NORMS = (_BatchNorm, FrozenBatchNorm2d)


def fuse_conv_bn(model):
    """
    Args:
        model: detector; it is left as it is.
    Returns:
        a copy in evaluation mode that computes the same, to the rounding of float32, in fewer passes. Its state_dict has other
        names, so it cannot be trained or saved as a checkpoint of the model.
    """
    fused = copy.deepcopy(model).eval()
    for module in fused.modules():
        if isinstance(module, ConvBlock) and isinstance(module.norm, NORMS):
            module.norm = _merge(module.conv, module.norm)
        elif isinstance(module, Conv2d) and isinstance(module.norm, NORMS):
            _merge(module, module.norm)
            module.norm, module.__class__ = None, Conv2d  # a folded one would fold again
        elif isinstance(module, nn.Sequential):
            for i in range(len(module) - 1):
                if type(module[i]) in (nn.Conv2d, Conv2d) and isinstance(module[i + 1], NORMS):
                    module[i + 1] = _merge(module[i], module[i + 1])
    # else every convolution of a map in this layout copies its weight into it, at each call
    return fused.to(memory_format=torch.channels_last) if getattr(model, "channels_last", False) else fused


def _merge(conv, norm):
    """Changes weight and bias of `conv`; returns what takes the place of the norm."""
    conv.weight, conv.bias = fuse_conv_bn_weights(
        conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
    )
    return nn.Identity()
