"""Uniform matching: every ground-truth box gets the same number of anchors, whatever its size.

Source: YOLOF, section 4.2.3. Paper: the k nearest anchors. Released code, which carries the published AP (37.7; anchors
alone 37.1): those and the anchors of the k nearest predicted boxes.

Shapes: R anchors, M ground-truth boxes, P pairs, k matches a box and source.
"""

from dense_d2.errors import require_positive

import torch

__all__ = ["UniformMatcher"]


class UniformMatcher:
    """Pairs anchors with ground-truth boxes by the L1 distance of (centre x, centre y, width, height) in pixels.

    Any callable with this signature can stand in its place.
    """

    def __init__(self, topk=4):
        """`topk`: k; 4 for C5, 8 for DC5."""
        require_positive(topk=topk)
        self.topk = topk

    @torch.no_grad()
    def __call__(self, anchors, pred_boxes, gt_boxes):
        """Matches the boxes of one image.

        The pairs are ordered by rank r: the r-th prediction of box 0..M-1, then the r-th anchor of box 0..M-1. An
        anchor may come twice, for one box or for several. If there are fewer than k anchors, all of them match.

        Args:
            anchors: (R, 4) XYXY.
            pred_boxes: (R, 4) XYXY, decoded from those anchors.
            gt_boxes: (M, 4) XYXY; M may be 0.
        Returns:
            anchor_idxs (P,), gt_idxs (P,) int64, P = 2 * min(k, R) * M.
        """
        num_anchors, num_gt = len(anchors), len(gt_boxes)
        candidates = _center_size(torch.cat([pred_boxes, anchors]).float())
        cost = torch.cdist(_center_size(gt_boxes.float()), candidates, p=1).view(num_gt, 2, num_anchors)
        topk = min(self.topk, num_anchors)
        idxs = cost.topk(topk, largest=False).indices  # (M, 2, k)
        anchor_idxs = idxs.permute(2, 1, 0).flatten()
        return anchor_idxs, torch.arange(num_gt, device=anchors.device).repeat(2 * topk)


def _center_size(boxes):
    """XYXY -> centre x, centre y, width, height."""
    return torch.cat([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], dim=1)
