"""Adaptive training sample selection: how many locations a box gets follows from how well the anchors near it fit.

Source: ATSS (Zhang et al., CVPR 2020), Alg. 1, with the standard deviation of n - 1 as released.

Of every level only the topk locations nearest to a box's centre can be its own, and on a regular grid those lie among the topk
nearest rows and columns. So this looks at topk * topk locations a box and level, not at all of them: what it costs hardly
depends on the size of the image, and 500 boxes need little memory.

Shapes: N images, L levels, R locations, M boxes of the whole batch, C = up to L * topk candidates of a box.
"""

from dense_d2.errors import require_positive

import torch

from .points import broadcast_iou

__all__ = ["BACKGROUND", "IGNORED", "ATSSAssigner", "concatenate"]

BACKGROUND, IGNORED = -1, -2

FAR = 1e16
"""Squared pixels: an ignored location is nearer than none, farther than any other."""


class ATSSAssigner:
    """Any callable of this signature, with these two attributes, can stand in its place. See `FCOSAssigner`."""

    offset = 0.0
    """Position of a location in its cell, see `PointGrid`."""
    ignores_padding = True
    """Whether locations outside of `PointGrid.valid_sizes` are left out of losses that leave any out."""

    def __init__(self, topk=9, anchor_scale=8, ignore_iof_thresh=None):
        """
        Args:
            topk: candidates of a box on each level; all locations where a level has fewer.
            anchor_scale: side of the square anchor at every location, in strides.
            ignore_iof_thresh: ignore locations of whose anchor a larger part lies in an ignored box; None: none.
        """
        require_positive(topk=topk, anchor_scale=anchor_scale)
        self.topk, self.anchor_scale, self.ignore_iof_thresh = topk, anchor_scale, ignore_iof_thresh

    @torch.no_grad()
    def __call__(self, grid, gt_boxes, ignored_boxes=None):
        """Assigns every location of the batch at most one box.

        Args:
            grid: PointGrid.
            gt_boxes: list of N (Mi, 4) XYXY, pixels.
            ignored_boxes: the same for regions that are neither object nor background, or None.
        Returns:
            (N, R) int64: an index into `torch.cat(gt_boxes)`, BACKGROUND or IGNORED.
        """
        boxes, image = concatenate(gt_boxes)
        ignored = self._ignored(grid, ignored_boxes)
        levels = [self._nearest(grid, level, boxes, image, ignored) for level in range(len(grid.sizes))]
        candidates, exists, sides = (torch.cat(parts, dim=-1) for parts in zip(*levels))

        points = grid.points[candidates]
        iou = broadcast_iou(_squares(points, sides), boxes[:, None])
        inside = torch.cat([points - boxes[:, None, :2], boxes[:, None, 2:] - points], dim=-1).amin(dim=-1) > 0.01
        kept = exists & inside & (iou >= _mean_plus_std(iou, exists)[:, None])

        num_images, num_points = len(gt_boxes), len(grid.points)
        matched = _best_box(image[:, None] * num_points + candidates, kept, iou, num_images * num_points)
        matched = matched.view(num_images, num_points)
        if ignored is not None:
            matched = torch.where((matched == BACKGROUND) & ignored, IGNORED, matched)
        return matched

    def _nearest(self, grid, level, boxes, image, ignored):
        """The locations of a level nearest to the centre of each box.

        Returns:
            candidates (M, k) indices into R; exists (M, k), false where the level has fewer; sides (k,) of the anchors, pixels.
        """
        (height, width), stride = grid.sizes[level], grid.strides[level]
        valid = grid.valid_sizes[image, level]
        centers = (boxes[:, :2] + boxes[:, 2:]) / 2
        cells = centers / stride - self.offset
        # with ignored locations the nearest of the others may be anywhere
        window = self.topk | 1 if ignored is None else max(height, width)
        rows = _window(cells[:, 1], valid[:, 0], min(window, height))
        columns = _window(cells[:, 0], valid[:, 1], min(window, width))
        start = sum(grid.num_points[:level])
        locations = start + (rows[:, :, None] * width + columns[:, None]).flatten(1)
        exists = ((rows < valid[:, :1])[:, :, None] & (columns < valid[:, 1:])[:, None]).flatten(1)
        distance = (grid.points[locations] - centers[:, None]).square().sum(dim=-1)
        if ignored is not None:
            distance = torch.where(ignored[image[:, None], locations], FAR, distance)
        distance = torch.where(exists, distance, float("inf"))
        nearest = distance.topk(min(self.topk, distance.shape[1]), largest=False).indices
        sides = torch.full((nearest.shape[1],), float(self.anchor_scale * stride), device=boxes.device)
        return locations.gather(1, nearest), exists.gather(1, nearest), sides

    def _ignored(self, grid, ignored_boxes):
        """(N, R) bool, or None."""
        if ignored_boxes is None or self.ignore_iof_thresh is None:
            return None
        sides = self.anchor_scale * grid.of_levels(grid.strides)
        anchors = _squares(grid.points, sides)[:, None]
        masks = []
        for boxes in ignored_boxes:
            overlap = torch.min(anchors[..., 2:], boxes[:, 2:]) - torch.max(anchors[..., :2], boxes[:, :2])
            part = overlap.clamp(min=0).prod(dim=-1) / sides[:, None] ** 2
            masks.append((part > self.ignore_iof_thresh).any(dim=1))
        return torch.stack(masks)


def concatenate(gt_boxes):
    """Boxes of each image, (Mi, 4) -> those of the batch (M, 4) float32, and their image (M,)."""
    images = [boxes.new_full((len(boxes),), i, dtype=torch.int64) for i, boxes in enumerate(gt_boxes)]
    return torch.cat(list(gt_boxes)).float(), torch.cat(images)


def _window(position, num_valid, size):
    """(M, size) indices of the cells nearest to `position` (M,) among the first `num_valid` (M,), all of them if fewer."""
    first = torch.minimum(position.round() - size // 2, (num_valid - size).to(position.dtype)).clamp(min=0)
    return first.long()[:, None] + torch.arange(size, device=position.device)


def _squares(points, sides):
    """XYXY boxes of side (...) pixels around points (..., 2)."""
    half = sides[..., None] / 2
    return torch.cat([points - half, points + half], dim=-1)


def _mean_plus_std(iou, exists):
    """(M, C) -> (M,), over the candidates that exist."""
    count = exists.sum(dim=1)
    mean = (iou * exists).sum(dim=1) / count
    variance = ((iou - mean[:, None]).square() * exists).sum(dim=1) / (count - 1).clamp(min=1)
    return mean + variance.sqrt()


def _best_box(locations, kept, iou, num_locations):
    """For each location the box with the highest IoU of those that keep it, the first of equals; BACKGROUND without.

    Args: locations, kept, iou (M, C). Returns (num_locations,) int64.
    """
    num_boxes = len(locations)
    score = torch.where(kept, iou, -1.0)
    best = score.new_full((num_locations,), -1.0).scatter_reduce(0, locations.flatten(), score.flatten(), "amax")
    box = torch.arange(num_boxes, device=locations.device)[:, None]
    box = torch.where(kept & (score == best[locations]), box, num_boxes)
    first = box.new_full((num_locations,), num_boxes).scatter_reduce(0, locations.flatten(), box.flatten(), "amin")
    return torch.where(first < num_boxes, first, BACKGROUND)
