"""Losses of dense detectors, in float32 and without a host sync.

Source: focal loss, Lin et al. 2017, Eq. 5; GIoU, Rezatofighi et al. 2019, Alg. 1.

Shapes: K classes, P boxes.
"""

import torch
import torch.nn.functional as F

__all__ = ["giou_loss", "iou_loss", "sigmoid_focal_loss"]


def sigmoid_focal_loss(logits, labels, *, alpha=0.25, gamma=2.0):
    """Sum of the sigmoid focal loss over all classes of all anchors that are not ignored.

    Args:
        logits: (..., K) of any float dtype.
        labels: (...) integers: 0..K-1 foreground, K background, -1 ignored.
        alpha: weight of the positive class; 1 - alpha of the others.
        gamma: exponent of the modulating factor.
    Returns:
        float32 scalar.
    """
    logits, labels = logits.float(), labels.unsqueeze(-1)
    positive = labels == torch.arange(logits.shape[-1], device=logits.device)
    wrongness = torch.where(positive, -logits, logits)  # logit of 1 - p_t
    weight = torch.where(positive, alpha, 1 - alpha) * (labels >= 0)
    return (weight * wrongness.sigmoid() ** gamma * F.softplus(wrongness)).sum()


def giou_loss(boxes1, boxes2, *, eps=1e-7):
    """1 - GIoU of matched boxes. NaN stays NaN; boxes without area are harmless.

    Args:
        boxes1, boxes2: (P, 4) XYXY in one unit.
        eps: added to both denominators (as in fvcore).
    Returns:
        (P,) float32 in [0, 2].
    """
    boxes1, boxes2 = boxes1.float(), boxes2.float()
    intersection, union = _intersection_and_union(boxes1, boxes2)
    hull = torch.max(boxes1[:, 2:], boxes2[:, 2:]) - torch.min(boxes1[:, :2], boxes2[:, :2])
    hull = hull.prod(dim=1)
    return 1 - intersection / (union + eps) + (hull - union) / (hull + eps)


def iou_loss(boxes1, boxes2, *, power=2, eps=1e-16):
    """1 - IoU^power of matched boxes.

    Args:
        boxes1, boxes2: (P, 4) XYXY in one unit.
        power: 2 in YOLOX and ASFF, whose papers just say "IoU loss".
        eps: added to the union.
    Returns:
        (P,) float32 in [0, 1].
    """
    intersection, union = _intersection_and_union(boxes1.float(), boxes2.float())
    return 1 - (intersection / (union + eps)) ** power


def _intersection_and_union(boxes1, boxes2):
    """Areas (P,) of matched boxes (P, 4)."""
    area1, area2 = ((b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1]) for b in (boxes1, boxes2))
    overlap = torch.min(boxes1[:, 2:], boxes2[:, 2:]) - torch.max(boxes1[:, :2], boxes2[:, :2])
    intersection = overlap.clamp(min=0).prod(dim=1)
    return intersection, area1 + area2 - intersection
