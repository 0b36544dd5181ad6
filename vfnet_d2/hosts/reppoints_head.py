"""The head of RepPoints: an object is a set of points; its features are taken there, and their moments are its box.

Source: RepPoints (Yang et al., ICCV 2019), sections 3 and 4, as mmdetection has it: the "moment" function of section 3.1,
locations as first hypotheses, GroupNorm in the towers.

Shapes: N images, C channels, Hi x Wi the map of level i, K classes, P points. Points are (down, right) of their location, in
cells of the map, P pairs in a row: the order of `deform_conv2d`.
"""

from dense_d2.modeling.deform_conv import DeformConv2d

import torch
from torch import nn
from torch.nn import functional as F

from ..head import VFNetPredictions, conv_tower, init_head

__all__ = ["RepPointsHead", "points_to_ltrb", "points_to_offsets"]


class RepPointsHead(nn.Module):
    """Maps a list of feature maps to `VFNetPredictions`: the boxes of the first and of the refined points.

    Their distances may be negative, as a box need not hold its location.
    """

    def __init__(
        self,
        *,
        in_channels=256,
        feat_channels=256,
        point_channels=256,
        num_convs=3,
        num_classes=80,
        strides=(8, 16, 32, 64, 128),
        kernel_size=3,
        gradient_mul=0.1,
        moment_mul=0.01,
        norm="GN",
        prior_prob=0.01,
    ):
        """
        Args:
            in_channels: of every feature map.
            feat_channels: of the towers; GroupNorm wants a multiple of 32.
            point_channels: of the features at the points.
            num_convs: blocks in each tower.
            num_classes: K.
            strides: pixels a cell, one a level.
            kernel_size: of the deformable convolutions, odd; P is its square.
            gradient_mul: factor on the gradient that those hand to the first points.
            moment_mul: factor on the gradient of the two numbers that turn standard deviations into half sides.
            norm: of every block, see `detectron2.layers.get_norm`.
            prior_prob: score of every class before training.
        """
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(
                f"kernel_size is {kernel_size}; the points start around a middle one, so use an odd number"
            )
        self.strides, self.num_classes = tuple(strides), num_classes
        self.kernel_size, self.gradient_mul, self.moment_mul = kernel_size, gradient_mul, moment_mul
        self.cls_convs = conv_tower(in_channels, feat_channels, num_convs, norm)
        self.reg_convs = conv_tower(in_channels, feat_channels, num_convs, norm)
        self.reppoints_cls_conv = DeformConv2d(feat_channels, point_channels, kernel_size, padding=kernel_size // 2)
        self.reppoints_cls_out = nn.Conv2d(point_channels, num_classes, 1)
        self.reppoints_pts_init_conv = nn.Conv2d(feat_channels, point_channels, 3, padding=1)
        self.reppoints_pts_init_out = nn.Conv2d(point_channels, 2 * kernel_size**2, 1)
        self.reppoints_pts_refine_conv = DeformConv2d(
            feat_channels, point_channels, kernel_size, padding=kernel_size // 2
        )
        self.reppoints_pts_refine_out = nn.Conv2d(point_channels, 2 * kernel_size**2, 1)
        self.moment_transfer = nn.Parameter(torch.zeros(2))  # logarithms of half sides in standard deviations

        init_head(self, self.reppoints_cls_out, prior_prob)
        for conv in (self.reppoints_cls_conv, self.reppoints_pts_refine_conv):
            nn.init.normal_(conv.weight, std=0.01)

    def forward(self, features):
        """Args: features, a list of (N, C, Hi, Wi)."""
        if len(features) != len(self.strides):
            raise ValueError(f"the head has {len(self.strides)} strides but got {len(features)} feature maps")
        columns = zip(*(self._forward_level(x, stride) for x, stride in zip(features, self.strides)))
        return VFNetPredictions(*map(list, columns), None)

    def _forward_level(self, x, stride):
        cls_features, reg_features = self.cls_convs(x), self.reg_convs(x)
        points = _float32(self.reppoints_pts_init_out, F.relu(self.reppoints_pts_init_conv(reg_features)))
        offsets = points_to_offsets(points, self.kernel_size, self.gradient_mul)
        logits = self.reppoints_cls_out(F.relu(self.reppoints_cls_conv(cls_features, offsets)))
        moved = _float32(self.reppoints_pts_refine_out, F.relu(self.reppoints_pts_refine_conv(reg_features, offsets)))
        boxes = [points_to_ltrb(p, self._log_ratio()) * stride for p in (points, points.detach() + moved)]
        return (logits, *boxes)

    def _log_ratio(self):
        return self.moment_mul * self.moment_transfer + (1 - self.moment_mul) * self.moment_transfer.detach()


def points_to_offsets(points, kernel_size, gradient_mul=0.1):
    """Offsets that move the taps of a kernel in the middle of its padding to the points.

    Args:
        points: (N, 2 * kernel_size**2, H, W).
        kernel_size: odd.
        gradient_mul: factor on the gradient that flows back into `points`; 1 passes it whole, 0 cuts it.
    Returns:
        the same shape: see `deform_conv2d`.
    """
    points = (1 - gradient_mul) * points.detach() + gradient_mul * points
    taps = torch.arange(kernel_size, device=points.device, dtype=points.dtype) - kernel_size // 2
    grid = torch.stack(torch.meshgrid(taps, taps, indexing="ij"), dim=-1)
    return points - grid.view(1, -1, 1, 1)


def points_to_ltrb(points, log_ratio):
    """The boxes of point sets: around the mean, as many standard deviations to each side as are learnt (section 3.1).

    Args:
        points: (N, 2P, H, W) float32.
        log_ratio: (2,) logarithms of half width and half height in standard deviations.
    Returns:
        (N, 4, H, W) distances from the location to the left, top, right and bottom side, cells; may be negative.
    """
    pairs = points.unflatten(1, (points.shape[1] // 2, 2)).flip(2)  # right, down
    mean = pairs.mean(dim=1)
    half = pairs.std(dim=1) * log_ratio.exp().view(1, 2, 1, 1)  # of P - 1, as released
    return torch.cat([half - mean, half + mean], dim=1)


def _float32(layer, x):
    """Half precision would move points by whole pixels."""
    with torch.autocast(device_type=x.device.type, enabled=False):
        return layer(x.float())
