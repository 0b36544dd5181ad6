"""Which slots learn from which ground-truth box: one level a box, its prior or its free slot by the shape, and who is ignored.

Source: ASFF's released code (the paper, section 3.1, says "as FSAF" of the free slot, whose choice by shape this is); the
adjacent ignore regions are section 3.3, for which no code was released.

Shapes: N images, R rows of an image (see `anchors`), B prior slots a cell, K classes, M ground-truth boxes of the batch, in
the order of the images and their boxes. A row below is an index into the N*R rows of the batch.
"""

from typing import NamedTuple

from dense_d2.errors import UserError

import torch
import torch.nn.functional as F
from torchvision.ops import box_iou

from .anchors import wh_iou

__all__ = ["GroundTruth", "Targets", "adjacent_cells", "assign", "gather_ground_truth"]

BOXES_AT_ONCE = 64  # of one image, in the table of IoUs with all of its rows


class GroundTruth(NamedTuple):
    boxes: torch.Tensor  # (M, 4) XYXY
    classes: torch.Tensor  # (M,)
    weights: torch.Tensor  # (M,) the share of a mixed-up image that the box comes from, else 1
    image_idxs: torch.Tensor  # (M,)
    counts: list  # boxes of each image


class Targets(NamedTuple):
    """Entries of fixed number, so that the host need not wait for the device; `*_mask` says which of them count.

    A row that several boxes claim is that of the last one: earlier entries of the row are masked out.
    """

    obj_targets: torch.Tensor  # (N*R,) 1 for positive rows
    obj_weights: torch.Tensor  # (N*R,) 0 for ignored rows
    rows: torch.Tensor  # (M,) the slot that each box chose
    mask: torch.Tensor  # (M,) bool
    boxes: torch.Tensor  # (M, 4) for the IoU loss: those of the last box that claimed the row in any way
    class_targets: torch.Tensor  # (M, K)
    shape_rows: torch.Tensor  # (2M,) or (M,): each box's prior slot and, behind them, free slots
    shape_mask: torch.Tensor  # as many, bool
    shape_idxs: torch.Tensor  # as many: the box of each


def gather_ground_truth(gt_instances):
    """List of Instances with `gt_boxes`, `gt_classes` and, where mixup gave them, `gt_weights` -> GroundTruth."""
    boxes = [gt.gt_boxes.tensor.float() for gt in gt_instances]
    weights = [
        gt.gt_weights.float() if gt.has("gt_weights") else b.new_ones(len(b)) for gt, b in zip(gt_instances, boxes)
    ]
    image_idxs = [torch.full((len(b),), i, device=b.device) for i, b in enumerate(boxes)]
    classes = torch.cat([gt.gt_classes for gt in gt_instances])
    return GroundTruth(torch.cat(boxes), classes, torch.cat(weights), torch.cat(image_idxs), [len(b) for b in boxes])


@torch.no_grad()
def assign(
    anchors,
    grid,
    anchor_wh,
    pred_boxes,
    gt,
    *,
    num_classes,
    ignore_thresh=0.7,
    label_smoothing=True,
    adjacent_ignore=None,
):
    """
    Args:
        anchors: Anchors.
        grid: its Grid for this batch.
        anchor_wh: (N, R, 2) anchors after guidance.
        pred_boxes: (N, R, 4).
        gt: GroundTruth.
        num_classes: K.
        ignore_thresh: rows whose predicted box has a higher IoU with any box of the image are no negatives.
        label_smoothing: class targets 1/K and 1 - 1/K instead of 0 and 1.
        adjacent_ignore: None, or the eps of `adjacent_cells`, whose rows are no negatives.
    Returns:
        Targets.
    """
    if label_smoothing and num_classes < 3:
        raise UserError(
            f"label_smoothing=True gives the right class of {num_classes} the target {1 - 1 / num_classes:g}, others "
            f"{1 / num_classes:g}: no class would be learned. Set model.label_smoothing=false."
        )
    if adjacent_ignore is not None and adjacent_ignore < 0:
        raise UserError(
            f"adjacent_ignore={adjacent_ignore}; use null for off, 0 for the cell of the centre, or a share."
        )
    num_images, num_rows = pred_boxes.shape[:2]
    levels, rows, shape_rows, shape_idxs = _choose_slots(anchors, grid, anchor_wh, gt)
    order = torch.arange(len(rows), device=rows.device)
    owner = _last_claim(rows, order, num_images * num_rows)
    box_owner = _last_claim(shape_rows, shape_idxs, num_images * num_rows)

    ignored = _ignored_rows(pred_boxes, gt, ignore_thresh)
    if adjacent_ignore is not None:
        cells = adjacent_cells(grid, anchors.level_strides, levels, gt, num_images, adjacent_ignore)
        ignored |= cells.repeat_interleave(anchors.num_slots, dim=1)
    weights = torch.where(ignored.flatten(), 0.0, 1.0)
    # a positive row counts with its box's weight, even if it was ignored
    weights = torch.where(owner >= 0, _pick(gt.weights, owner), weights)
    return Targets(
        obj_targets=(owner >= 0).float(),
        obj_weights=weights,
        rows=rows,
        mask=owner[rows] == order,
        boxes=gt.boxes[box_owner[rows]],
        class_targets=_class_targets(gt.classes, owner[rows], num_classes, label_smoothing),
        shape_rows=shape_rows,
        shape_mask=box_owner[shape_rows] == shape_idxs,
        shape_idxs=shape_idxs,
    )


def _choose_slots(anchors, grid, anchor_wh, gt):
    """Level (M,) and row (M,) of each box, and the rows that learn its shape, with the index of the box."""
    num_images, num_rows = anchor_wh.shape[:2]
    gt_wh = gt.boxes[:, 2:] - gt.boxes[:, :2]
    prior_iou, best = wh_iou(gt_wh[:, None], anchors.priors.flatten(0, 1)).max(dim=1)
    levels = best.div(anchors.num_priors, rounding_mode="floor")
    centers = (gt.boxes[:, :2] + gt.boxes[:, 2:]) / 2
    sizes = grid.level_sizes[levels]
    # a centre on the far edge belongs to the last cell
    cells = torch.min((centers / anchors.strides[levels, None]).long().clamp(min=0), sizes - 1)
    first_rows = grid.level_starts[levels] + (cells[:, 1] * sizes[:, 0] + cells[:, 0]) * anchors.num_slots
    first_rows = first_rows + gt.image_idxs * num_rows
    rows = shape_rows = first_rows + best % anchors.num_priors
    shape_idxs = torch.arange(len(rows), device=rows.device)
    if anchors.free_slot:
        free_rows = first_rows + anchors.num_priors
        shape_rows, shape_idxs = torch.cat([rows, free_rows]), shape_idxs.repeat(2)
        # released: the guided free anchor competes with the prior as it is, not with the guided one
        free_iou = wh_iou(gt_wh, anchor_wh.flatten(0, 1)[free_rows])
        rows = torch.where(free_iou > prior_iou, free_rows, rows)
    return levels, rows, shape_rows, shape_idxs


def _last_claim(rows, idxs, num_rows):
    """(num_rows,): the highest of `idxs` that claims each row, -1 without. A plain scatter has no defined order on GPUs."""
    return torch.full((num_rows,), -1, device=rows.device).scatter_reduce(0, rows, idxs, "amax")


def _pick(values, idxs):
    """`values[idxs]`, and 0 where the index is -1."""
    return F.pad(values, (1, 0))[idxs + 1]


def _ignored_rows(pred_boxes, gt, thresh):
    """(N, R) bool."""
    result = []
    for boxes, gt_boxes in zip(pred_boxes, gt.boxes.split(gt.counts)):
        ignored = torch.zeros(len(boxes), dtype=torch.bool, device=boxes.device)
        for part in gt_boxes.split(BOXES_AT_ONCE) if len(gt_boxes) else ():
            ignored |= (box_iou(boxes, part) > thresh).any(dim=1)
        result.append(ignored)
    return torch.stack(result)


def _class_targets(classes, owners, num_classes, label_smoothing):
    """(M, K). Without smoothing, boxes of several classes in one slot make all of these a target, as released."""
    if label_smoothing:
        targets = torch.full((len(classes), num_classes), 1 / num_classes, device=classes.device)
        return targets.scatter_(1, classes[:, None], 1 - 1 / num_classes)
    targets = torch.zeros((len(classes), num_classes), device=classes.device)
    targets[owners, classes] = 1.0
    return targets


def adjacent_cells(grid, level_strides, levels, gt, num_images, eps):
    """Cells of the levels above and below that of a box, around its centre.

    Args:
        levels: (M,) level of each box.
        eps: the region has this share of the box's width and height; the cell of the centre always belongs to it.
    Returns:
        (N, cells of all levels) bool.
    """
    centers = (gt.boxes[:, :2] + gt.boxes[:, 2:]) / 2
    half = (gt.boxes[:, 2:] - gt.boxes[:, :2]) * (eps / 2)
    result = []
    for level, ((height, width), stride) in enumerate(zip(grid.shapes, level_strides)):
        inside = []
        for axis, size in ((1, height), (0, width)):
            cells = torch.arange(size, device=centers.device)
            near = ((cells + 0.5) * stride - centers[:, axis, None]).abs() < half[:, axis, None]
            own = (centers[:, axis] / stride).long().clamp(0, size - 1)
            inside.append((near, cells == own[:, None]))
        (near_y, own_y), (near_x, own_x) = inside
        region = (near_y[:, :, None] & near_x[:, None]) | (own_y[:, :, None] & own_x[:, None])
        region &= ((levels - level).abs() == 1)[:, None, None]
        hits = torch.zeros((num_images, height * width), device=centers.device)
        result.append(hits.index_add_(0, gt.image_idxs, region.flatten(1).float()) > 0)
    return torch.cat(result, dim=1)
