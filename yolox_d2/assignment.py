"""What every assigner of YOLOX takes and returns, for the whole batch at once.

An assigner is a callable `assigner(priors, pred, gt) -> Assignment` of Priors, Predictions and GroundTruth. It computes in
float32 whatever it is given, without gradient and without a loop over boxes.

Shapes: N images, R priors, M ground-truth boxes of the fullest image, K classes, A priors a cell.
"""

from typing import NamedTuple, Tuple

import torch
from torch.nn.utils.rnn import pad_sequence

__all__ = [
    "BACKGROUND",
    "IGNORED",
    "Assignment",
    "CellAssigner",
    "GroundTruth",
    "Predictions",
    "Priors",
    "box_iou",
    "box_planes",
    "cells_around",
    "cells_near",
    "centers_of",
    "make_priors",
    "matched_ious",
    "no_match",
    "pad_instances",
]

BACKGROUND, IGNORED = -1, -2


class Priors(NamedTuple):
    """The places predictions are made at: level by level, row-major, the A priors of a cell side by side.

    grid: (R, 2) column and row of the cell, float32, without the half.
    strides: (R,) float32.
    sizes: (R, 2) width and height in pixels: the anchor's; the stride where there are no anchors.
    shapes: ((height, width, stride), ...) of the levels, plain integers, so that no assigner has to ask the device.
    """

    grid: torch.Tensor
    strides: torch.Tensor
    sizes: torch.Tensor
    shapes: Tuple[Tuple[int, int, int], ...]

    @property
    def num_cells(self):
        """Of all levels."""
        return sum(height * width for height, width, _ in self.shapes)

    def at(self, idxs):
        """Those of some predictions."""
        return self._replace(grid=self.grid[idxs], strides=self.strides[idxs], sizes=self.sizes[idxs])


class Predictions(NamedTuple):
    """boxes: (N, R, 4) decoded, XYXY pixels of the network input. cls_logits: (N, R, K). obj_logits: (N, R)."""

    boxes: torch.Tensor
    cls_logits: torch.Tensor
    obj_logits: torch.Tensor


class GroundTruth(NamedTuple):
    """boxes: (N, M, 4) float32, XYXY pixels. classes: (N, M) int64. valid: (N, M) bool; the rest is padding, zeros."""

    boxes: torch.Tensor
    classes: torch.Tensor
    valid: torch.Tensor


class Assignment(NamedTuple):
    """matched_idxs: (N, R) int64, 0..M-1, BACKGROUND or IGNORED. ious: (N, R) float32, of the prediction with its match."""

    matched_idxs: torch.Tensor
    ious: torch.Tensor


class CellAssigner:
    """Base of the assigners that give boxes to cells, so that a cell must not have several anchors."""

    def check_anchors(self, num_anchors):
        """Raises ValueError if there are several a cell."""
        if num_anchors > 1:
            raise ValueError(
                f"{type(self).__name__} is for one prediction a cell, not for {num_anchors} anchors; "
                "use AnchorAssigner, or a head with num_anchors=1 and no anchor_sizes"
            )


def make_priors(sizes, strides, anchor_sizes=None, device=None):
    """Args:
        sizes: (height, width) of each level.
        strides: integer of each level.
        anchor_sizes: A (width, height) pairs in pixels for each level; None: one prior a cell, as large as the stride.
    Returns:
        Priors
    """
    grids, cell_strides, prior_sizes = [], [], []
    for level, ((height, width), stride) in enumerate(zip(sizes, strides)):
        anchors = torch.tensor(anchor_sizes[level] if anchor_sizes else [(stride, stride)], dtype=torch.float32)
        rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        cells = torch.stack([columns, rows], dim=-1).view(-1, 2).float()
        grids.append(cells.repeat_interleave(len(anchors), dim=0))
        cell_strides.append(torch.full((len(grids[-1]),), float(stride)))
        prior_sizes.append(anchors.repeat(len(cells), 1))
    shapes = tuple((int(height), int(width), int(stride)) for (height, width), stride in zip(sizes, strides))
    return Priors(*(torch.cat(x).to(device) for x in (grids, cell_strides, prior_sizes)), shapes)


def pad_instances(instances):
    """Args:
        instances: N Instances with gt_boxes and gt_classes, any number of boxes.
    Returns:
        GroundTruth, padded at the end.
    """
    boxes = [x.gt_boxes.tensor.float() for x in instances]
    classes = [x.gt_classes for x in instances]
    valid = [torch.ones_like(c, dtype=torch.bool) for c in classes]
    return GroundTruth(*(pad_sequence(x, batch_first=True) for x in (boxes, classes, valid)))


def no_match(obj_logits):
    """The Assignment of a batch without boxes."""
    ious = torch.zeros(obj_logits.shape, device=obj_logits.device)
    return Assignment(torch.full_like(ious, BACKGROUND, dtype=torch.int64), ious)


def centers_of(boxes):
    """(..., 4) XYXY -> (..., 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def box_planes(boxes):
    """(..., 4) -> (4, ...) float32 with contiguous planes, which is what `box_iou` is fast on.

    A box that is not finite (a diverged network, an exponential that overflowed) becomes a point: it overlaps nothing.
    """
    boxes = boxes.float()
    finite = boxes.isfinite().all(dim=-1, keepdim=True)
    return torch.where(finite, boxes, 0).movedim(-1, 0).contiguous()


def box_iou(planes1, planes2):
    """IoU of boxes (4, ...) whose shapes broadcast, without epsilon; 0 for two boxes without area."""
    area1, area2 = ((p[2] - p[0]) * (p[3] - p[1]) for p in (planes1, planes2))
    overlap = (torch.min(planes1[2], planes2[2]) - torch.max(planes1[0], planes2[0])).clamp_(min=0)
    overlap *= (torch.min(planes1[3], planes2[3]) - torch.max(planes1[1], planes2[1])).clamp_(min=0)
    # the smallest area any box has is on the side of a ratio 0 / 0 only: 1e-30 vanishes in every sum with a real one
    union = (area1 + area2.clamp(min=1e-30)).sub_(overlap)
    return overlap.div_(union)


def cells_near(priors, points, radius):
    """Cells whose centre is nearer than `radius` cells of their level to a point, in x and in y (strictly).

    Every level has the same number of places, ceil(2 * radius) squared, so that shapes do not depend on the data.

    Args:
        priors: of any number a cell.
        points: (N, M, 2) pixels.
        radius: in cells.
    Returns:
        (N, M, C) int64 numbers of cells, ascending, counted through all levels; R marks a place that is not taken.
    """
    found, start = [], 0
    for height, width, stride in priors.shapes:
        columns, in_x = _near(points[..., 0], radius, stride, width)
        rows, in_y = _near(points[..., 1], radius, stride, height)
        index = start + rows[..., :, None] * width + columns[..., None, :]
        inside = in_y[..., :, None] & in_x[..., None, :]
        found.append(torch.where(inside, index, len(priors.grid)).flatten(2))
        start += height * width
    return torch.cat(found, dim=-1)


def _near(points, radius, stride, size):
    """Along one axis: (N, M) pixels -> cells (N, M, side) int64 and whether each is near and on the map."""
    low, high = (points - radius * stride) / stride, (points + radius * stride) / stride
    first = low.floor()
    first = first + (first + 0.5 <= low)
    side = int(-(-2 * radius // 1))
    cells = first[..., None] + torch.arange(side, device=points.device)
    return cells.long(), (cells >= 0) & (cells < size) & (cells + 0.5 < high[..., None])


def cells_around(shapes, points, reach=0):
    """The cell that contains a point and its neighbours, on every level.

    Args:
        shapes: as in `Priors`.
        points: (N, M, 2) pixels.
        reach: neighbours to each side, diagonals included.
    Returns:
        (N, M, L, (2 * reach + 1) ** 2) int64 numbers of cells, counted through all L levels; one past the last cell
        stands for a cell outside the map.
    """
    offsets = torch.arange(-reach, reach + 1, device=points.device)
    found, start, end = [], 0, sum(height * width for height, width, _ in shapes)
    for height, width, stride in shapes:
        columns, rows = ((points / stride).floor()[..., None] + offsets).unbind(dim=2)
        inside = ((rows >= 0) & (rows < height))[..., :, None] & ((columns >= 0) & (columns < width))[..., None, :]
        cells = start + rows.long()[..., :, None] * width + columns.long()[..., None, :]
        found.append(torch.where(inside, cells, end).flatten(2))
        start += height * width
    return torch.stack(found, dim=2)


def matched_ious(pred_boxes, gt_boxes, matched_idxs):
    """(N, R) float32: the IoU of each prediction with its box, 0 where there is none."""
    boxes = gt_boxes.gather(1, matched_idxs.clamp(min=0)[..., None].expand(-1, -1, 4))
    ious = box_iou(box_planes(pred_boxes), box_planes(boxes))
    return torch.where(matched_idxs >= 0, ious, 0)
