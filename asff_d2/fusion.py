"""Adaptively spatial feature fusion, a neck around any feature pyramid.

Source: ASFF (Liu et al. 2019), section 3.2, Eq. 1 and 2; where the released code differs, that code: the weights of a level
come from one convolution over all resized maps, each first compressed to a few channels, and a 3x3 convolution follows.

Shapes: N images, L fused levels, H x W the map of one of them. Levels are numbered as in the released code, coarse first:
level 0 is the paper's level 1. Weight channel n belongs to the map that comes from level n (alpha, beta, gamma).
"""

from functools import partial

import torch
from detectron2.modeling import Backbone
from torch import nn

from .conv import conv_block, init_convs, negative_slope

__all__ = ["ASFFNeck", "LevelFusion"]

FUSIONS = ("asff", "sum", "concat", "none")


class LevelFusion(nn.Module):
    """Brings the maps of all levels to one level and fuses them there."""

    def __init__(
        self, level, channels, out_channels, *, fusion, compress_channels, compress_equal, expand, uniform_start, block
    ):
        """
        Args:
            level: index of this level in `channels`.
            channels: one number a level, coarse first.
            out_channels, fusion, compress_channels, compress_equal, expand, uniform_start: see `ASFFNeck`.
            block: callable (in_channels, out_channels, kernel_size, stride=1) -> convolution block.
        """
        super().__init__()
        self.fusion = fusion
        self.sources = [level] if fusion == "none" else list(range(len(channels)))
        own = channels[level]
        self.resize = nn.ModuleList(_resizer(block, channels[n], own, level - n, compress_equal) for n in self.sources)
        if fusion == "asff":
            self.weight_convs = nn.ModuleList(block(own, compress_channels, 1) for _ in self.sources)
            self.weight_logits = nn.Conv2d(len(self.sources) * compress_channels, len(self.sources), 1)
        fused = own * len(self.sources) if fusion == "concat" else own
        wanted = own != out_channels if fusion == "none" else expand
        if not wanted and fused != out_channels:
            raise ValueError(
                f"fusion={fusion!r} without a last convolution gives {fused} channels, not {out_channels}; set expand=True"
            )
        self.expand = block(fused, out_channels, 3) if wanted else nn.Identity()
        self.uniform_start = uniform_start

    def forward(self, features):
        """
        Args:
            features: the L maps, coarse first.
        Returns:
            output (N, C_out, H, W); weights (N, L, H, W), None unless the fusion is "asff"; fused (N, C, H, W), the map
            before the last convolution.
        """
        resized = [resize(features[n]) for n, resize in zip(self.sources, self.resize)]
        weights = None
        if self.fusion == "concat":
            fused = torch.cat(resized, dim=1)
        elif self.fusion == "asff":
            weights = self.weights(resized)
            fused = sum(x * weights[:, n : n + 1] for n, x in enumerate(resized))
        else:
            fused = sum(resized[1:], resized[0])
        return self.expand(fused), weights, fused

    def weights(self, resized):
        """L maps (N, C, H, W) -> (N, L, H, W), which sum to 1 over the levels (Eq. 2)."""
        compressed = [conv(x) for conv, x in zip(self.weight_convs, resized)]
        logits = self.weight_logits(torch.cat(compressed, dim=1))
        at_least_float32 = torch.promote_types(logits.dtype, torch.float32)
        return logits.softmax(dim=1, dtype=at_least_float32).to(resized[0].dtype)


def _resizer(block, in_channels, channels, jump, compress_equal):
    """`jump`: how many levels up (a finer map is wanted: positive) or down."""
    layers = []
    if jump > 0:
        if in_channels != channels or compress_equal:
            layers.append(block(in_channels, channels, 1))
        layers.append(nn.Upsample(scale_factor=2.0**jump, mode="nearest"))
    elif jump < 0:
        layers += [nn.MaxPool2d(3, stride=2, padding=1) for _ in range(-jump - 1)]
        layers.append(block(in_channels, channels, 3, 2))
    return nn.Sequential(*layers)


class ASFFNeck(Backbone):
    """Replaces some levels of a pyramid by fusions of all of them; outputs keep their names, other levels pass through."""

    def __init__(
        self,
        *,
        bottom_up,
        in_features=("p3", "p4", "p5"),
        out_channels=None,
        widen=None,
        fusion="asff",
        compress_channels=16,
        compress_equal=False,
        expand=True,
        uniform_start=False,
        norm="BN",
        norm_eps=None,
        norm_momentum=None,
        activation="LeakyReLU",
    ):
        """
        Args:
            bottom_up: backbone with the pyramid.
            in_features: names of the levels to fuse, two or more, each of twice the stride of the one before (high
                resolution first, as everywhere in Detectron2).
            out_channels: one number a level, in the order of `in_features`; None: as many as before.
            widen: level name -> channels that a 3x3 convolution gives it before the fusion. The released YOLOv3 has
                {"p3": 256}.
            fusion: "asff"; "sum" or "concat" of the resized maps (paper, Table 3); or "none", where only levels whose
                number of channels changes get a 3x3 convolution.
            compress_channels: channels of each resized map in the computation of its weight: 16, ASFF* 8.
            compress_equal: give a coarser map with the same number of channels a 1x1 convolution too; released: no.
            expand: end each level with a 3x3 convolution to its `out_channels`.
            uniform_start: start with equal weights everywhere; released: no.
            norm: "BN", "SyncBN", "GN" or "". norm_eps, norm_momentum, activation: see `ConvBlock`.
        """
        super().__init__()
        self.bottom_up, self.compress_channels = bottom_up, compress_channels
        shapes = bottom_up.output_shape()
        in_features, widen = list(in_features), dict(widen or {})
        _check(fusion, in_features, widen, shapes)
        block = partial(conv_block, norm=norm, activation=activation, norm_eps=norm_eps, norm_momentum=norm_momentum)
        self.widen = nn.ModuleDict({name: block(shapes[name].channels, c, 3) for name, c in widen.items()})
        channels = [widen.get(name, shapes[name].channels) for name in in_features]
        out_channels = channels if out_channels is None else list(out_channels)
        if len(out_channels) != len(in_features):
            raise ValueError(f"out_channels={out_channels} and in_features={in_features}; list one number a level")
        self.in_features = in_features[::-1]  # coarse first from here on
        self.levels = nn.ModuleList(
            LevelFusion(
                level,
                channels[::-1],
                out_channels[::-1][level],
                fusion=fusion,
                compress_channels=compress_channels,
                compress_equal=compress_equal,
                expand=expand,
                uniform_start=uniform_start,
                block=block,
            )
            for level in range(len(in_features))
        )
        self.init_weights(negative_slope(activation))

        self._size_divisibility = max(bottom_up.size_divisibility, *(shapes[name].stride for name in in_features))
        self._out_features = list(shapes)
        self._out_feature_strides = {name: shape.stride for name, shape in shapes.items()}
        self._out_feature_channels = {name: shape.channels for name, shape in shapes.items()}
        self._out_feature_channels.update(zip(in_features, out_channels))

    def init_weights(self, slope):
        """Draws the neck's own convolutions, not those of `bottom_up`; see `init_convs`."""
        for module in (self.widen, self.levels):
            init_convs(module, slope)
        for level in self.levels:
            if level.uniform_start and level.fusion == "asff":
                nn.init.zeros_(level.weight_logits.weight)

    @property
    def size_divisibility(self):
        return self._size_divisibility

    @property
    def padding_constraints(self):
        return getattr(self.bottom_up, "padding_constraints", {})

    def forward(self, x):
        """(N, 3, H, W) -> dict of feature maps."""
        return self.fuse(self.bottom_up(x))

    def fuse(self, features, return_weights=False):
        """
        Args:
            features: outputs of `bottom_up` by name.
            return_weights: whether to return what the paper's Figures 3 and 4 show, too.
        Returns:
            outputs by name. With `return_weights` also two dicts by name of fused level: weights (N, L, H, W), channel n
            for the n-th coarsest level, only for fusion "asff"; and fused maps (N, C, H, W) before the last convolution.
        """
        maps = [features[name] for name in self.in_features]
        maps = [self.widen[name](x) if name in self.widen else x for name, x in zip(self.in_features, maps)]
        outputs, weights, fused = dict(features), {}, {}
        for name, level in zip(self.in_features, self.levels):
            outputs[name], weight, fused[name] = level(maps)
            if weight is not None:
                weights[name] = weight
        return (outputs, weights, fused) if return_weights else outputs


def _check(fusion, in_features, widen, shapes):
    if fusion not in FUSIONS:
        raise ValueError(f"fusion={fusion!r} is not known; use one of {FUSIONS}")
    missing = [name for name in in_features if name not in shapes]
    if missing:
        raise ValueError(f"in_features names {missing}, but the bottom_up has {list(shapes)}")
    strides = [shapes[name].stride for name in in_features]
    if len(strides) < 2 or any(b != 2 * a for a, b in zip(strides, strides[1:])):
        raise ValueError(
            f"in_features={in_features} have strides {strides}; list two or more levels, each of twice the stride "
            "of the one before"
        )
    if not set(widen) <= set(in_features):
        raise ValueError(f"widen names {list(widen)}, but in_features is {in_features}")
