"""YOLOv3's rule: one anchor a box, the one of most similar shape, in the cell of the box's centre.

Source: YOLOv3, section 2.1, which ignores above an IoU of 0.5; YOLOX does not give a number for its baseline (section
2.1), and its authors' earlier detector ASFF ignores above 0.7.

Shapes: N images, R priors, M padded ground-truth boxes, L levels, A anchors a cell.
"""

import torch

from .assignment import (
    BACKGROUND,
    IGNORED,
    Assignment,
    box_iou,
    box_planes,
    cells_around,
    centers_of,
    matched_ious,
    no_match,
)

__all__ = ["AnchorAssigner"]


class AnchorAssigner:
    """Every other anchor whose predicted box overlaps a box by more than `ignore_iou` counts neither way (IGNORED).

    An anchor that several boxes claim goes to the last of them, which overwrites the others as in YOLOv3's own loop.
    """

    def __init__(self, ignore_iou=0.7, chunk=2**20):
        """`chunk`: pairs (box, prediction) in memory at a time. It changes no result."""
        self.ignore_iou, self.chunk = ignore_iou, chunk

    @torch.no_grad()
    def __call__(self, priors, pred, gt):
        """See `yolox_d2.assignment`."""
        gt_boxes = gt.boxes.float()
        if gt_boxes.shape[1] == 0:
            return no_match(pred.obj_logits)
        claims = torch.where(gt.valid, _best_anchors(priors, gt_boxes), len(priors.grid))
        boxes = torch.arange(gt_boxes.shape[1], device=claims.device).expand_as(claims)
        matched_idxs = torch.full((len(claims), len(priors.grid) + 1), BACKGROUND, device=claims.device)
        matched_idxs = matched_idxs.scatter_reduce_(1, claims, boxes, "amax")[:, :-1]
        overlaps = self._best_ious(box_planes(pred.boxes), box_planes(gt_boxes * gt.valid[..., None]))
        ious = matched_ious(pred.boxes, gt_boxes, matched_idxs)
        ignored = (matched_idxs == BACKGROUND) & (overlaps > self.ignore_iou)
        return Assignment(matched_idxs.masked_fill(ignored, IGNORED), ious)

    def _best_ious(self, planes, gt_planes):
        """(4, N, R), (4, N, M) -> (N, R) the largest IoU of each prediction with any box."""
        boxes_a_step = max(1, self.chunk // planes.shape[2])
        images_a_step = max(1, boxes_a_step // gt_planes.shape[2])
        best = []
        for preds, gts in zip(planes.split(images_a_step, dim=1), gt_planes.split(images_a_step, dim=1)):
            parts = [box_iou(gt[..., None], preds[:, :, None]).amax(dim=1) for gt in gts.split(boxes_a_step, dim=2)]
            best.append(torch.stack(parts).amax(dim=0))
        return torch.cat(best)


def _best_anchors(priors, gt_boxes):
    """(N, M) the prior of each box; R if its centre is outside the map."""
    num_cells, num_anchors = priors.num_cells, len(priors.grid) // priors.num_cells
    anchors, start = [], 0
    for height, width, _ in priors.shapes:
        anchors.append(priors.sizes[start : start + num_anchors])
        start += height * width * num_anchors
    anchors = torch.cat(anchors)  # (L * A, 2)
    sides = (gt_boxes[..., 2:] - gt_boxes[..., :2])[:, :, None]
    overlap = torch.min(sides, anchors).prod(dim=3)
    shape_ious = overlap / (sides.prod(dim=3) + anchors.prod(dim=1) - overlap)
    best = shape_ious.argmax(dim=2, keepdim=True)
    cells = cells_around(priors.shapes, centers_of(gt_boxes)).squeeze(3).gather(2, best // num_anchors)
    return torch.where(cells < num_cells, cells * num_anchors + best % num_anchors, len(priors.grid)).squeeze(2)
