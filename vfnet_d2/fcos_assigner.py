"""FCOS's assignment: every location inside a box, on the level whose range of sizes the box falls into.

Source: FCOS (Tian et al., ICCV 2019), section 3.2, and its centre sampling, as VFNet's released code has them
(`use_atss=False`): closed ranges, and distances that are not divided by the stride.

Shapes: N images, R locations, M boxes of an image.
"""

import torch

from .atss import BACKGROUND

__all__ = ["FCOSAssigner"]


class FCOSAssigner:
    """Takes the place of `ATSSAssigner`."""

    offset = 0.5
    ignores_padding = False

    def __init__(
        self,
        regress_ranges=((-1, 64), (64, 128), (128, 256), (256, 512), (512, 1e8)),
        center_sampling=False,
        center_radius=1.5,
    ):
        """
        Args:
            regress_ranges: of each level, the least and greatest distance to the farthest side of a box, pixels.
            center_sampling: only locations near the centre of a box.
            center_radius: half the side of that square, in strides.
        """
        self.regress_ranges = tuple(tuple(bounds) for bounds in regress_ranges)
        self.center_sampling, self.center_radius = center_sampling, center_radius

    @torch.no_grad()
    def __call__(self, grid, gt_boxes):
        """See `ATSSAssigner`. Of several boxes a location gets the smallest."""
        if len(self.regress_ranges) != len(grid.sizes):
            raise ValueError(
                f"regress_ranges has {len(self.regress_ranges)} entries for {len(grid.sizes)} levels; give one a level"
            )
        ranges = [grid.of_levels(bounds)[:, None] for bounds in zip(*self.regress_ranges)]
        radius = self.center_radius * grid.of_levels(grid.strides)[:, None, None]
        matched, first = [], 0
        for boxes in gt_boxes:
            matched.append(self._assign(grid.points, *ranges, radius, boxes.float(), first))
            first += len(boxes)
        return torch.stack(matched)

    def _assign(self, points, low, high, radius, boxes, first):
        """(R,) for one image, whose boxes have indices from `first` on."""
        if len(boxes) == 0:
            return torch.full((len(points),), BACKGROUND, device=points.device)
        nearest, farthest = _distances(points, boxes[:, :2], boxes[:, 2:])
        if self.center_sampling:
            center = (boxes[:, :2] + boxes[:, 2:]) / 2
            upper_left = torch.max(center - radius, boxes[:, :2])
            lower_right = torch.min(center + radius, boxes[:, 2:])
            nearest, _ = _distances(points, upper_left, lower_right)
        allowed = (nearest > 0) & (farthest >= low) & (farthest <= high)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1)
        least, box = torch.where(allowed, area, float("inf")).min(dim=1)
        return torch.where(least < float("inf"), box + first, BACKGROUND)


def _distances(points, upper_left, lower_right):
    """Distance of each point (R, 2) to the nearest and to the farthest side of each box, corners (M, 2) or (R, M, 2)."""
    before, behind = points[:, None] - upper_left, lower_right - points[:, None]
    return torch.min(before, behind).amin(dim=-1), torch.max(before, behind).amax(dim=-1)
