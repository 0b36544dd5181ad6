"""Assignment by overlap: candidates near a box are its own, those far from all are background, those between count neither way.

Source: RetinaNet (Lin et al. 2017), section 4, as mmdetection's `MaxIoUAssigner` has it. Detectron2's `Matcher` differs where
a candidate is the best of several boxes: there it keeps the box it overlaps most, here it gets the last of those.

Shapes: N images, R candidates, M boxes of an image.
"""

import torch

from ..atss import BACKGROUND, IGNORED
from ..points import broadcast_iou

__all__ = ["MaxIoUAssigner"]


class MaxIoUAssigner:
    def __init__(self, foreground_iou=0.5, background_iou=0.4, min_best_iou=0.0):
        """
        Args:
            foreground_iou: candidates that overlap a box at least so much are its own.
            background_iou: candidates that overlap every box less are background.
            min_best_iou: the best candidates of a box, all of equals, are its own from this IoU on. With 0 a box that no
                candidate touches gets every candidate that overlaps it by 0: as released.
        """
        self.foreground_iou, self.background_iou, self.min_best_iou = foreground_iou, background_iou, min_best_iou

    @torch.no_grad()
    def __call__(self, candidates, is_valid, gt_boxes):
        """Assigns every candidate of the batch at most one box.

        Args:
            candidates: (N, R, 4) XYXY, pixels.
            is_valid: (N, R) bool; others neither take part nor count.
            gt_boxes: list of N (Mi, 4) XYXY, pixels.
        Returns:
            (N, R) int64: an index into `torch.cat(gt_boxes)`, BACKGROUND or IGNORED.
        """
        matched, first = [], 0
        for parts in zip(candidates, is_valid, gt_boxes):
            matched.append(self._assign(*parts, first))
            first += len(parts[-1])
        return torch.stack(matched)

    def _assign(self, candidates, is_valid, boxes, first):
        """(R,) for one image, whose boxes have indices from `first` on."""
        if len(boxes) == 0:
            return torch.where(is_valid, BACKGROUND, IGNORED)
        iou = broadcast_iou(candidates.float(), boxes[:, None].float())
        iou = torch.where(is_valid, iou, -1.0)
        best = iou.amax(dim=1, keepdim=True)
        is_best = (iou == best) & (best >= self.min_best_iou) & is_valid
        number = torch.arange(len(boxes), device=boxes.device)[:, None]
        last = torch.where(is_best, number, -1).amax(dim=0)

        overlap, box = iou.max(dim=0)
        far = torch.where(overlap < self.background_iou, BACKGROUND, IGNORED)
        matched = torch.where(overlap >= self.foreground_iou, box + first, far)
        matched = torch.where(last >= 0, last + first, matched)
        return torch.where(is_valid, matched, IGNORED)
