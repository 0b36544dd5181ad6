"""Norm and activation layers by name, for encoder, decoder and backbone."""

from detectron2.layers import get_norm
from torch import nn

__all__ = ["make_activation", "make_norm"]

ACTIVATIONS = {
    "ReLU": lambda: nn.ReLU(inplace=True),
    "LeakyReLU": lambda: nn.LeakyReLU(0.1, inplace=True),
    "Mish": nn.Mish,
}


def make_activation(name):
    """A new activation module: "ReLU", "LeakyReLU" (slope 0.1) or "Mish"."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not known; use one of {sorted(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def make_norm(name, channels, eps=None, momentum=None):
    """A new norm layer as `detectron2.layers.get_norm` makes it, with its own `eps` and `momentum` where given."""
    norm = get_norm(name, channels)
    if eps is not None:
        norm.eps = eps
    if momentum is not None:
        norm.momentum = momentum
    return norm
