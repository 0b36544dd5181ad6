"""RepPoints' first assignment: every box gets the location nearest to its centre, on the level that its size asks for.

Source: RepPoints (Yang et al., ICCV 2019), section 4.1, as mmdetection's `PointAssigner` with one location a box has it.

Shapes: N images, R locations, M boxes of the whole batch.
"""

import torch

from ..atss import BACKGROUND, concatenate

__all__ = ["PointAssigner"]


class PointAssigner:
    """Takes the place of `ATSSAssigner`."""

    offset = 0.0
    ignores_padding = True

    def __init__(self, scale=4):
        """
        Args:
            scale: pixels; the level of a box has the stride 2^s, s the floor of log2(sqrt(width * height) / scale), or the
                nearest that there is.
        """
        self.scale = scale

    @torch.no_grad()
    def __call__(self, grid, gt_boxes):
        """See `ATSSAssigner`. Of several boxes a location gets the nearest, measured in its width and height."""
        if any(2 * fine != coarse for fine, coarse in zip(grid.strides, grid.strides[1:])):
            raise ValueError(f"strides are {grid.strides}; each has to be twice the one before")
        boxes, image = concatenate(gt_boxes)
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        sides = (boxes[:, 2:] - boxes[:, :2]).clamp(min=1e-6)

        location = self._nearest(grid, image, centers, sides)
        distance = ((grid.points[location] - centers) / sides).norm(dim=1)
        location = location + image * len(grid.points)

        # of each location the least distance, then the first of the boxes at that
        num_locations, num_boxes = len(gt_boxes) * len(grid.points), len(boxes)
        least = distance.new_full((num_locations,), float("inf")).scatter_reduce(0, location, distance, "amin")
        box = torch.arange(num_boxes, device=boxes.device)
        box = torch.where(distance == least[location], box, num_boxes)
        box = box.new_full((num_locations,), num_boxes).scatter_reduce(0, location, box, "amin")
        return torch.where(box < num_boxes, box, BACKGROUND).view(len(gt_boxes), -1)

    def _nearest(self, grid, image, centers, sides):
        """(M,) index into R of the nearest location that the image covers."""
        strides, sizes = (torch.tensor(x).to(centers.device, non_blocking=True) for x in (grid.strides, grid.sizes))
        first = sizes.prod(dim=1).cumsum(dim=0) - sizes.prod(dim=1)
        level = (sides / self.scale).log2().mean(dim=1).floor() - strides[0].log2()
        level = level.clamp(0, len(strides) - 1).long()
        cell = (centers / strides[level][:, None] - self.offset - 0.5).ceil().long()  # the first of two as near
        row_and_column = torch.minimum(cell.flip(1), grid.valid_sizes[image, level] - 1).clamp(min=0)
        return first[level] + row_and_column[:, 0] * sizes[level, 1] + row_and_column[:, 1]
