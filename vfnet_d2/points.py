"""Locations of the feature maps in the image, and the boxes that distances from them describe.

Shapes: N images, L levels, Hi x Wi the map of level i, R = sum of Hi*Wi locations, row by row, level after level.
Positions are (x, y) and boxes XYXY in pixels of the network input.
"""

import math
from typing import NamedTuple, Tuple

import torch

__all__ = ["PointGrid", "ltrb_to_boxes", "broadcast_iou"]

SIZE_DIVISOR = 32  # what images are padded to before they are batched


class PointGrid(NamedTuple):
    """The locations of a batch."""

    sizes: Tuple[Tuple[int, int], ...]
    """(Hi, Wi) of each level."""
    strides: Tuple[int, ...]
    """Pixels a cell, of each level."""
    points: torch.Tensor
    """(R, 2)."""
    valid_sizes: torch.Tensor
    """(N, L, 2) int64: the rows and columns that each image covers by itself, padded to a multiple of 32 but not to
    the size of the batch."""

    @classmethod
    def of(cls, feature_maps, strides, image_sizes, offset=0.0):
        """
        Args:
            feature_maps: one (N, C, Hi, Wi) a level.
            strides: one a level.
            image_sizes: (height, width) of each image without padding.
            offset: position of a location in its cell, 0 the upper left corner, 0.5 the middle.
        """
        sizes = tuple(tuple(x.shape[-2:]) for x in feature_maps)
        if len(sizes) != len(strides):
            raise ValueError(f"{len(sizes)} feature maps but {len(strides)} strides; list one stride a level")
        device = feature_maps[0].device
        points = [_level_points(size, stride, offset, device) for size, stride in zip(sizes, strides)]
        padded = [[math.ceil(side / SIZE_DIVISOR) * SIZE_DIVISOR for side in size] for size in image_sizes]
        valid = [
            [
                [min(-(-side // stride), cells) for side, cells in zip(image, size)]
                for size, stride in zip(sizes, strides)
            ]
            for image in padded
        ]
        return cls(sizes, tuple(strides), torch.cat(points), torch.tensor(valid).to(device, non_blocking=True))

    @property
    def num_points(self):
        """Locations of each level."""
        return [height * width for height, width in self.sizes]

    def of_levels(self, values):
        """(R,) float32: of each location the number that `values` has for its level."""
        return torch.cat([self.points.new_full((count,), value) for count, value in zip(self.num_points, values)])

    def is_valid(self):
        """(N, R) bool: whether a location lies in the part that the image covers by itself."""
        levels = []
        for i, (height, width) in enumerate(self.sizes):
            rows = torch.arange(height, device=self.points.device) < self.valid_sizes[:, i, :1]
            columns = torch.arange(width, device=self.points.device) < self.valid_sizes[:, i, 1:]
            levels.append((rows[:, :, None] & columns[:, None]).flatten(1))
        return torch.cat(levels, dim=1)


def _level_points(size, stride, offset, device):
    y, x = ((torch.arange(cells, device=device) + offset) * stride for cells in size)
    y, x = torch.meshgrid(y, x, indexing="ij")
    return torch.stack([x, y], dim=-1).view(-1, 2).float()


def ltrb_to_boxes(points, ltrb):
    """Args: points (R, 2), ltrb (..., R, 4) distances to the left, top, right and bottom side. Returns (..., R, 4) XYXY."""
    return torch.cat([points - ltrb[..., :2], points + ltrb[..., 2:]], dim=-1)


def broadcast_iou(boxes1, boxes2, eps=1e-6):
    """IoU of boxes XYXY of shapes (..., 4) that broadcast; the union counts at least `eps` square pixels."""
    overlap = torch.min(boxes1[..., 2:], boxes2[..., 2:]) - torch.max(boxes1[..., :2], boxes2[..., :2])
    intersection = overlap.clamp(min=0).prod(dim=-1)
    area1, area2 = ((b[..., 2:] - b[..., :2]).prod(dim=-1) for b in (boxes1, boxes2))
    return intersection / (area1 + area2 - intersection).clamp(min=eps)
