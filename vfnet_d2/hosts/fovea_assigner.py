"""FoveaBox's assignment: the middle of a box, its fovea, on every level whose range of sizes the box falls into.

Source: FoveaBox (Kong et al., IEEE TIP 2020), "scale assignment" and "object fovea", as mmdetection has it. The ranges of sizes
overlap: most boxes are on two levels.

Shapes: M boxes of an image, H x W the map of a level. Boxes are XYXY in pixels of the network input.
"""

import torch

from ..atss import BACKGROUND

__all__ = ["FoveaAssigner"]


class FoveaAssigner:
    """Takes the place of `ATSSAssigner`."""

    offset = 0.5
    ignores_padding = False

    def __init__(self, scale_ranges=((1, 64), (32, 128), (64, 256), (128, 512), (256, 2048)), sigma=0.4):
        """
        Args:
            scale_ranges: of each level, the least and greatest sqrt(width * height) of a box, pixels.
            sigma: sides of the fovea, in sides of the box.
        """
        self.scale_ranges = tuple(tuple(bounds) for bounds in scale_ranges)
        self.sigma = sigma

    @torch.no_grad()
    def __call__(self, grid, gt_boxes):
        """See `ATSSAssigner`. Of several boxes a location gets the smallest."""
        if len(self.scale_ranges) != len(grid.sizes):
            raise ValueError(
                f"scale_ranges has {len(self.scale_ranges)} entries for {len(grid.sizes)} levels; give one a level"
            )
        matched, first = [], 0
        for boxes in gt_boxes:
            levels = zip(grid.sizes, grid.strides, self.scale_ranges)
            image = torch.cat([self._assign(*level, boxes.float()) for level in levels])
            matched.append(torch.where(image == BACKGROUND, image, image + first))
            first += len(boxes)
        return torch.stack(matched)

    def _assign(self, size, stride, scale_range, boxes):
        """(H * W,) for a level of one image."""
        height, width = size
        if len(boxes) == 0:
            return torch.full((height * width,), BACKGROUND, device=boxes.device)
        scale = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        in_range = (scale >= scale_range[0]) & (scale <= scale_range[1])
        rows = self._in_fovea(boxes[:, 1] / stride, boxes[:, 3] / stride, height)
        columns = self._in_fovea(boxes[:, 0] / stride, boxes[:, 2] / stride, width)
        allowed = rows[:, None] & columns & in_range  # (H, W, M)
        least, box = torch.where(allowed, scale, float("inf")).min(dim=-1)
        return torch.where(least < float("inf"), box, BACKGROUND).flatten()

    def _in_fovea(self, low, high, num_cells):
        """Which cells of a row or column have their middle in the fovea, (num_cells, M). Args: sides (M,) in cells.

        As released, where this is only cells outside of the map, it is the cell at its border.
        """
        half = (high - low) / 2
        first = (low + (1 - self.sigma) * half - 0.5).ceil().clamp(0, num_cells - 1)
        last = (low + (1 + self.sigma) * half - 0.5).floor().clamp(0, num_cells - 1)
        cell = torch.arange(num_cells, device=low.device)[:, None]
        return (cell >= first) & (cell <= last)
