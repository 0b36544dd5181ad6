"""Soft-NMS (Bodla et al., ICCV 2017), linear: a box that overlaps a better one of its class loses score instead of its place.

Picked boxes come in descending order of their decayed score, whatever their class, so the first `max_detections` picks over
all classes at once are the result of soft-NMS per class and a cut after it.
"""

import torch

from .points import broadcast_iou

__all__ = ["soft_nms"]


@torch.no_grad()
def soft_nms(boxes, scores, classes, *, iou_thresh, max_detections, min_score=1e-3):
    """
    Args:
        boxes: (n, 4) XYXY.
        scores: (n,) in [0, 1].
        classes: (n,) integers; boxes of different classes leave each other alone.
        iou_thresh: a picked box multiplies the score of every other with at least this IoU by 1 - IoU.
        max_detections: how many boxes to pick.
        min_score: boxes that decay below are dropped.
    Returns:
        keep (m,) int64 indices, and their decayed scores (m,), in descending order.
    """
    boxes, remaining = boxes.float(), scores.float().clone()
    keep, kept_scores = [], []
    for _ in range(min(max_detections, len(boxes))):
        score, best = remaining.max(dim=0, keepdim=True)  # stays on the device
        iou = broadcast_iou(boxes, boxes[best])
        decays = (iou >= iou_thresh) & (classes == classes[best])
        remaining = torch.where(decays, remaining * (1 - iou), remaining).index_fill(0, best, -1.0)
        keep.append(best)
        kept_scores.append(score)
    if not keep:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device), remaining
    keep, kept_scores = torch.cat(keep), torch.cat(kept_scores)
    enough = kept_scores >= min_score
    return keep[enough], kept_scores[enough]
