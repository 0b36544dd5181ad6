"""Classification losses that know how good a box is: varifocal, quality focal, and the focal loss in the same interface.

Source: VarifocalNet, Eq. 2 (varifocal); Generalized Focal Loss (Li et al. 2020), Eq. 6 (quality focal).

The two functions are element-wise on targets: 0 where a class is absent, the IoU of predicted and ground-truth box where it
is present. The classes are the interface that a detector takes, so that one line of a config exchanges them:

    loss(logits, labels, quality) -> float32 scalar, the sum over classes and locations

with logits (..., K) of any float dtype; labels (...) integers, 0..K-1 foreground, K background, -1 ignored; and
quality (...) the IoU in [0, 1] of the box predicted there with its ground truth, read only where labels are foreground and
never differentiated.

Their attribute `counts_padding` says how the released VFNet and ATSS treat locations in the padding of a batch: as background
(True) or as ignored.
"""

from dense_d2.modeling.losses import sigmoid_focal_loss

import torch
import torch.nn.functional as F

__all__ = ["FocalLoss", "QualityFocalLoss", "VarifocalLoss", "quality_focal_loss", "varifocal_loss"]


def varifocal_loss(logits, targets, *, alpha=0.75, gamma=2.0, iou_weighted=True):
    """Binary cross-entropy, weighted by the target q where q > 0 and by alpha * p**gamma elsewhere.

    p is differentiated in the weight too, q is not.

    Args:
        logits: any shape and float dtype.
        targets: same shape, in [0, 1].
        alpha, gamma: of the elements without the class.
        iou_weighted: whether elements with the class weigh q, or 1.
    Returns:
        float32, the same shape.
    """
    logits, targets = logits.float(), targets.detach().float()
    positive_weight = targets if iou_weighted else torch.ones_like(targets)
    weight = torch.where(targets > 0, positive_weight, alpha * logits.sigmoid() ** gamma)
    return weight * _cross_entropy(logits, targets)


def quality_focal_loss(logits, targets, *, beta=2.0):
    """Binary cross-entropy weighted by |q - p|**beta; p is differentiated in the weight too.

    Args:
        logits: any shape and float dtype.
        targets: q, the same shape, in [0, 1].
    Returns:
        float32, the same shape.
    """
    logits, targets = logits.float(), targets.detach().float()
    return (targets - logits.sigmoid()).abs() ** beta * _cross_entropy(logits, targets)


class VarifocalLoss:
    """`quality` is the target of the labelled class, and its weight unless `iou_weighted` is off.

    A labelled class of quality 0 is one that is absent: detectors that do not want that clamp the quality.
    """

    counts_padding = True

    def __init__(self, alpha=0.75, gamma=2.0, iou_weighted=True):
        self.alpha, self.gamma, self.iou_weighted = alpha, gamma, iou_weighted

    def __call__(self, logits, labels, quality):
        options = dict(alpha=self.alpha, gamma=self.gamma, iou_weighted=self.iou_weighted)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            return _sum(varifocal_loss(logits, _soft_targets(logits, labels, quality), **options), labels)


class QualityFocalLoss:
    """`quality` is the target of the labelled class."""

    counts_padding = False

    def __init__(self, beta=2.0):
        self.beta = beta

    def __call__(self, logits, labels, quality):
        with torch.autocast(device_type=logits.device.type, enabled=False):
            return _sum(quality_focal_loss(logits, _soft_targets(logits, labels, quality), beta=self.beta), labels)


class FocalLoss:
    """Targets are 0 or 1; `quality` is not used."""

    counts_padding = False

    def __init__(self, alpha=0.25, gamma=2.0):
        self.alpha, self.gamma = alpha, gamma

    def __call__(self, logits, labels, quality=None):
        with torch.autocast(device_type=logits.device.type, enabled=False):
            return sigmoid_focal_loss(logits, labels, alpha=self.alpha, gamma=self.gamma)


def _cross_entropy(logits, targets):
    return F.softplus(logits) - logits * targets


def _soft_targets(logits, labels, quality):
    """(..., K): the quality at the label, 0 elsewhere."""
    is_label = labels.unsqueeze(-1) == torch.arange(logits.shape[-1], device=logits.device)
    return torch.where(is_label, quality.unsqueeze(-1).float(), 0.0)


def _sum(loss, labels):
    return (loss * (labels >= 0).unsqueeze(-1)).sum()
