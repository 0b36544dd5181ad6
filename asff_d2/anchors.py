"""Anchors of every slot, and boxes from predictions.

Source: ASFF's released code; YOLOv3 (Redmon & Farhadi 2018), section 2.1.

Shapes: A slots a cell, R = sum of H*W*A over the levels. Row (y*W + x)*A + a of a level, levels one after the other,
high resolution first. Sizes are in pixels of the network input.
"""

from typing import NamedTuple, Tuple

import torch
from torch import nn

__all__ = ["Anchors", "Grid", "decode", "wh_iou"]

FREE_SIZE = 4  # side of the free slot's square, in strides


class Grid(NamedTuple):
    """Where the rows lie."""

    cells: torch.Tensor  # (R, 2) column and row
    strides: torch.Tensor  # (R, 1)
    sizes: torch.Tensor  # (R, 2) width and height of the anchor before guidance
    level_idxs: torch.Tensor  # (R,)
    level_sizes: torch.Tensor  # (L, 2) W and H in cells
    level_starts: torch.Tensor  # (L,) first row
    shapes: Tuple[Tuple[int, int], ...]  # (H, W) of each level

    def take(self, rows):
        """cells, strides, sizes of some rows."""
        return self.cells[rows], self.strides[rows], self.sizes[rows]


class Anchors(nn.Module):
    """Makes the `Grid` of a batch."""

    def __init__(self, *, priors, strides, free_slot=True):
        """
        Args:
            priors: (width, height) of the prior anchors of each level, high resolution first, equally many on each.
            strides: of each level.
            free_slot: whether cells have one more slot, for a square of 4 strides.
        """
        super().__init__()
        priors = [[tuple(size) for size in level] for level in priors]
        if len(priors) != len(strides) or len({len(level) for level in priors}) != 1:
            raise ValueError(
                f"anchors.priors={priors} and strides={list(strides)}; list a stride and equally many sizes for each level"
            )
        if any(side <= 0 for level in priors for size in level for side in size):
            raise ValueError(f"anchors.priors={priors}; sides are above 0")
        self.level_strides, self.free_slot, self.num_priors = list(strides), free_slot, len(priors[0])
        self.num_slots = self.num_priors + free_slot
        free = [[(FREE_SIZE * stride, FREE_SIZE * stride)] if free_slot else [] for stride in strides]
        sizes = [[*level, *square] for level, square in zip(priors, free)]
        self.register_buffer("priors", torch.tensor(priors, dtype=torch.float32), persistent=False)  # (L, A0, 2)
        self.register_buffer("sizes", torch.tensor(sizes, dtype=torch.float32), persistent=False)  # (L, A, 2)
        self.register_buffer("strides", torch.tensor(strides, dtype=torch.int64), persistent=False)
        self._cache = {}

    def forward(self, shapes):
        """`shapes`: (H, W) of each level."""
        shapes = tuple((int(h), int(w)) for h, w in shapes)
        key = (shapes, self.sizes.device)
        if key not in self._cache:
            if len(self._cache) > 100:  # batches of ever new sizes
                self._cache.clear()
            self._cache[key] = self._grid(shapes, self.sizes.device)
        return self._cache[key]

    def _grid(self, shapes, device):
        cells, strides, sizes, level_idxs, starts = [], [], [], [], [0]
        for level, (height, width) in enumerate(shapes):
            y, x = torch.meshgrid(
                torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
            )
            cells.append(torch.stack([x, y], dim=-1).view(-1, 1, 2).expand(-1, self.num_slots, -1).reshape(-1, 2))
            num_rows = len(cells[-1])
            strides.append(torch.full((num_rows, 1), float(self.level_strides[level]), device=device))
            sizes.append(self.sizes[level].repeat(height * width, 1))
            level_idxs.append(torch.full((num_rows,), level, device=device))
            starts.append(starts[-1] + num_rows)
        return Grid(
            torch.cat(cells).float(),
            torch.cat(strides),
            torch.cat(sizes),
            torch.cat(level_idxs),
            torch.tensor([(w, h) for h, w in shapes], device=device),
            torch.tensor(starts[:-1], device=device),
            shapes,
        )


def decode(deltas, anchor_wh, cells, strides):
    """Boxes XYXY from (tx, ty, tw, th); nothing is clamped, as released.

    Args:
        deltas: (..., 4); anchor_wh: (..., 2) pixels; cells: (..., 2); strides: (..., 1).
    """
    centers = (deltas[..., :2].sigmoid() + cells) * strides
    half = deltas[..., 2:4].exp() * anchor_wh / 2
    return torch.cat([centers - half, centers + half], dim=-1)


def wh_iou(wh1, wh2, eps=1e-16):
    """IoU of boxes with one centre, from their broadcastable widths and heights (..., 2)."""
    intersection = torch.min(wh1, wh2).prod(dim=-1)
    return intersection / (wh1.prod(dim=-1) + wh2.prod(dim=-1) - intersection + eps)
