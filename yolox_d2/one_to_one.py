"""One prediction a box: the assignment the selector of the end-to-end detector learns, so that NMS is not needed.

Source: YOLOX, section 2.1, "End-to-end YOLO", which follows "Object Detection Made Simpler by Eliminating Heuristic NMS"
(PSS): bipartite matching of the quality score^(1 - alpha) * IoU^alpha among the cells near the centre of a box.

The matching is an auction (Bertsekas 1988): a box without a cell bids for the one that gives it the highest quality less
price, raising the price by what the second best is worse, plus epsilon; a cell goes to the highest bidder, and the box that
had it bids again.

Shapes: N images, R priors, M padded ground-truth boxes, C priors of the cells near a box.
"""

from dense_d2.errors import require_positive

import torch

from .assignment import (
    BACKGROUND,
    Assignment,
    box_iou,
    box_planes,
    cells_near,
    centers_of,
    matched_ious,
    no_match,
)

__all__ = ["OneToOneAssigner"]


class OneToOneAssigner:
    """Every box gets one cell, and no cell two boxes. A box stays without if there are more boxes than cells for them.

    The sum of qualities of an image is within M * epsilon of the largest possible where the auction ends within
    `patience` rounds; then epsilon doubles as often, so that boxes that fight for too few cells come to an end.
    The host asks the device every `patience` rounds whether the auction is over.
    """

    def __init__(self, alpha=0.8, radius=1.5, epsilon=1e-3, patience=16, max_rounds=512):
        """
        Args:
            alpha: exponent of the IoU in the quality.
            radius: in cells of a level, as in SimOTA.
            epsilon: the least raise of a price.
            patience: rounds after which epsilon doubles.
            max_rounds: bound on the rounds.
        """
        require_positive(radius=radius)
        self.alpha, self.radius = alpha, radius
        self.epsilon, self.patience, self.max_rounds = epsilon, patience, max_rounds

    @torch.no_grad()
    def __call__(self, priors, pred, gt):
        """See `yolox_d2.assignment`. The score is class times objectness."""
        if gt.boxes.shape[1] == 0:
            return no_match(pred.obj_logits)
        gt_boxes, num_priors = gt.boxes.float(), len(priors.grid)
        cells = cells_near(priors, centers_of(gt_boxes), self.radius)
        num_cells = priors.num_cells
        anchors = torch.arange(num_priors // num_cells, device=cells.device)
        taken = ((cells < num_cells) & gt.valid[..., None])[..., None]
        cells = torch.where(taken, cells[..., None] * len(anchors) + anchors, num_priors).flatten(2)
        quality = self._quality(cells, pred, gt_boxes, gt.classes)
        quality = torch.where(cells < num_priors, quality, -torch.inf)
        owners = self._auction(cells, quality, num_priors)
        return Assignment(owners, matched_ious(pred.boxes, gt_boxes, owners))

    def _quality(self, cells, pred, gt_boxes, gt_classes):
        """(N, M, C) in [0, 1]; 0 for a prediction that is not a number."""
        images = torch.arange(len(cells), device=cells.device)[:, None, None]
        at = cells.clamp(max=pred.obj_logits.shape[1] - 1)
        cls_probs = pred.cls_logits[images, at, gt_classes[..., None]].float().sigmoid()
        scores = cls_probs * pred.obj_logits[images, at].float().sigmoid()
        ious = box_iou(box_planes(pred.boxes[images, at]), box_planes(gt_boxes)[..., None])
        return (scores ** (1 - self.alpha) * ious**self.alpha).nan_to_num(nan=0.0)

    def _auction(self, cells, quality, num_priors):
        """Returns (N, R) the box of each cell or BACKGROUND."""
        num_images, num_gt, _ = cells.shape
        boxes = torch.arange(num_gt, device=cells.device).expand(num_images, -1)
        prices = quality.new_zeros(num_images, num_priors + 1)
        owners = torch.full_like(prices, BACKGROUND, dtype=torch.int64)
        held = torch.full_like(boxes, num_priors)
        # to stay without costs more than all that others could gain by it: as many boxes as possible are matched
        outside = quality.new_full((num_images, num_gt, 1), -float(num_gt + 1))
        places = torch.cat([cells, torch.full_like(cells[..., :1], num_priors)], dim=2)
        gave_up = torch.zeros_like(boxes, dtype=torch.bool)
        for number in range(self.max_rounds):
            bidding = (held == num_priors) & ~gave_up
            if number % self.patience == 0 and not bidding.any():
                break
            raise_by = self.epsilon * 2 ** (number // self.patience)
            net = torch.cat([quality - prices.gather(1, cells.flatten(1)).view_as(quality), outside], dim=2)
            (first, second), (choice, _) = (x.unbind(dim=2) for x in net.topk(2, dim=2))
            gave_up |= bidding & (choice == cells.shape[2])
            wish = places.gather(2, choice[..., None]).squeeze(2)
            bids = prices.gather(1, wish) + (first - second) + raise_by
            wish = torch.where(bidding & ~gave_up, wish, num_priors)

            highest = torch.full_like(prices, -torch.inf).scatter_reduce_(1, wish, bids, "amax")
            winners = torch.where(bids == highest.gather(1, wish), boxes, num_gt)
            winners = torch.full_like(owners, num_gt).scatter_reduce_(1, wish, winners, "amin")
            sold = (winners < num_gt) & (highest > -torch.inf)
            sold[:, num_priors] = False
            owners, prices = torch.where(sold, winners, owners), torch.where(sold, highest, prices)
            held = torch.where(held < num_priors, held, wish)
            held = torch.where(owners.gather(1, held) == boxes, held, num_priors)
        return owners[:, :-1]
