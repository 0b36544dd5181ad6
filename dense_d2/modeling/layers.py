"""Norm and activation layers by name, and the convolution block that the Darknet family is made of."""

import math

from dense_d2.errors import UserError

from detectron2.layers import get_norm
from torch import nn

__all__ = ["ConvBlock", "bias_of", "make_activation", "make_norm"]

ACTIVATIONS = {
    "ReLU": lambda: nn.ReLU(inplace=True),
    "ReLU6": lambda: nn.ReLU6(inplace=True),
    "LeakyReLU": lambda: nn.LeakyReLU(0.1, inplace=True),
    "SiLU": lambda: nn.SiLU(inplace=True),
    "Mish": nn.Mish,
}


def make_activation(name):
    """A new activation module: "ReLU", "ReLU6", "LeakyReLU" (slope 0.1), "SiLU" or "Mish"."""
    if name not in ACTIVATIONS:
        raise UserError(f"activation {name!r} is not known; use one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def make_norm(name, channels, eps=None, momentum=None):
    """A new norm layer as `detectron2.layers.get_norm` makes it, with its own `eps` and `momentum` where given."""
    try:
        norm = get_norm(name, channels)
    except KeyError:
        raise UserError(f'norm {name!r} is not known; use "BN", "SyncBN", "FrozenBN" or "GN"') from None
    if eps is not None:
        norm.eps = eps
    if momentum is not None:
        norm.momentum = momentum
    return norm


def bias_of(prior_prob):
    """The bias with which a sigmoid starts at a probability."""
    if not 0 < prior_prob < 1:
        raise ValueError(f"prior_prob is {prior_prob}; a probability at initialisation is above 0 and below 1")
    return -math.log((1 - prior_prob) / prior_prob)


class ConvBlock(nn.Module):
    """Convolution without bias, norm, activation; an odd kernel keeps the size of the map, up to its stride.

    Args:
        in_channels, out_channels, kernel_size, stride, groups: of the convolution.
        norm, norm_eps, norm_momentum: see `make_norm`.
        activation: see `make_activation`.
    """

    def __init__(
        self,
        in_channels,
        out_channels,
        kernel_size=1,
        stride=1,
        *,
        groups=1,
        norm="BN",
        norm_eps=None,
        norm_momentum=None,
        activation="SiLU",
    ):
        super().__init__()
        padding = (kernel_size - 1) // 2
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.norm = make_norm(norm, out_channels, eps=norm_eps, momentum=norm_momentum)
        self.activation = make_activation(activation)

    def forward(self, x):
        return self.activation(self.norm(self.conv(x)))
