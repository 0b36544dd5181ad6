"""Batch norms with constant statistics, computed inside the convolution before them.

Such a norm is a scale and a shift per channel, constants (FrozenBatchNorm2d) or trained (`StatFrozenBN`). Detectron2 applies
it as two passes over the feature map, in training with two more backwards. Scaling the convolution's weight instead is the
same function, with the same gradients, for the price of one product of weight size. Names and values in the state_dict stay
as they are.
"""

from detectron2.layers import Conv2d, FrozenBatchNorm2d
from torch import nn
from torch.nn import functional as F

__all__ = ["FoldedConv2d", "StatFrozenBN", "fold_frozen_norms"]


class StatFrozenBN(nn.BatchNorm2d):
    """Batch norm whose scale and shift are trained while its running statistics are constants: it never leaves eval mode.

    Source: `norm_eval=True` of mmdetection's backbones.
    """

    def __init__(self, num_features, eps=1e-5):
        super().__init__(num_features, eps=eps)
        self.train(False)

    def train(self, mode=True):
        """Stays in eval mode, whatever `mode` is."""
        return super().train(False)


class FoldedConv2d(Conv2d):
    """A convolution that applies its constant norm through its weight."""

    def forward(self, x):
        norm = self.norm
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        bias = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            bias = bias + self.bias * scale
        weight = self.weight * scale.view(-1, 1, 1, 1)
        x = F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)
        return x if self.activation is None else self.activation(x)


def fold_frozen_norms(module):
    """Makes every Detectron2 `Conv2d` with a norm of constant statistics inside `module` apply it through its weight.

    Returns:
        `module`, so that a config can wrap a backbone: `L(fold_frozen_norms)(module=L(ResNet)(...))`.
    """
    for child in module.modules():
        if type(child) is Conv2d and isinstance(child.norm, (FrozenBatchNorm2d, StatFrozenBN)):
            child.__class__ = FoldedConv2d
    return module
