"""SimOTA: a box gets as many positives as its predictions deserve, the cheapest of those near its centre.

Source: YOLOX, section 2.1 (SimOTA), Eq. 1. What the paper leaves open follows the released code: the weight 3, the class
cost on the geometric mean of class and objectness, the 10 IoUs, the radius, the penalties.

The released code fills boxes x candidates x classes per image. Here only the IoU is computed for all pairs of a box and a
candidate: it decides how many positives a box gets. Costs are computed for the pairs in which the candidate is near the
box, at most ceil(2 * radius)^2 a level and box, since any of them is cheaper than any penalised pair. The others are
looked at only for boxes that want more positives than they have near candidates.

Shapes: N images, R priors, M padded ground-truth boxes, K classes, C places near a box, B candidates of an image (a bound),
D boxes that want more, Q orphans: candidates near no box, wanted by several.
"""

from typing import NamedTuple

from dense_d2.errors import require_positive

import torch

from .assignment import (
    Assignment,
    CellAssigner,
    box_iou,
    box_planes,
    cells_near,
    centers_of,
    no_match,
)

__all__ = ["SimOTA"]


class _Batch(NamedTuple):
    """Slot b of image n has the id n * (B + 1) + b; slot B is a bin for candidates that do not exist. Box ids: n * M + m."""

    candidates: torch.Tensor  # (N, B + 1) prior, ascending; R where there is none
    planes: torch.Tensor  # (4, N * (B + 1)) predicted boxes
    obj_probs: torch.Tensor  # (N * (B + 1),)
    no_class_cost: torch.Tensor  # (N * (B + 1),) the class cost if no class were the right one
    cls_logits: torch.Tensor  # (N, R, K)
    gt_planes: torch.Tensor  # (4, N * M)
    gt_classes: torch.Tensor  # (N * M,)
    gt_valid: torch.Tensor  # (N, M)


class SimOTA(CellAssigner):
    """Candidates of an image are the priors near any of its boxes. Box by box: k = floor(sum of the 10 largest IoUs with
    candidates), at least 1; the k cheapest candidates are positive. A candidate that several boxes want goes to the
    box, of all in the image, for which it is cheapest; so a box may end with none. Ties go to the lowest index.

    A prediction that is not finite has IoU 0 and, if no number, the largest cost; nothing fails, the loss tells. The
    device is asked one question (does a box want more candidates than it has near ones?), and one more if so.
    """

    def __init__(self, radius=1.5, geometry="center", iou_weight=3.0, topk=10, penalty=None, chunk=2**18):
        """
        Args:
            radius: in cells of a level; 1.5 is the released code since January 2023, 2.5 (with "union") before.
            geometry: "center": near means that the cell's centre is within the radius. "union": candidates are also
                the cells with their centre in a box, and near means within the radius and in the box.
            iou_weight: lambda of Eq. 1.
            topk: how many IoUs are summed.
            penalty: cost of a pair that is not near; None: 1e6 for "center", 1e5 for "union".
            chunk: pairs (box, candidate) or (candidate, class) in memory at a time. It changes no result.
        """
        if geometry not in ("center", "union"):
            raise ValueError(f'geometry is {geometry!r}; it must be "center" or "union"')
        require_positive(radius=radius, topk=topk)
        self.radius, self.geometry, self.iou_weight, self.topk, self.chunk = radius, geometry, iou_weight, topk, chunk
        self.penalty = penalty or {"center": 1e6, "union": 1e5}[geometry]

    @torch.no_grad()
    def __call__(self, priors, pred, gt):
        """See `yolox_d2.assignment`."""
        self.check_anchors(len(priors.grid) // priors.num_cells)
        if gt.boxes.shape[1] == 0:
            return no_match(pred.obj_logits)
        with torch.autocast(pred.boxes.device.type, enabled=False):
            gt = gt._replace(boxes=gt.boxes.float())
            near = self._near(priors, gt)
            candidates, slots = self._candidates(priors, near, gt)
            batch = self._gather(candidates, pred, gt)
            matched = self._match(batch, slots.gather(1, near.flatten(1)).view_as(near))
            return _to_priors(batch, matched)

    def _near(self, priors, gt):
        """(N, M, C) prior; R where there is none."""
        near = cells_near(priors, centers_of(gt.boxes), self.radius)
        taken = gt.valid[..., None]
        if self.geometry == "union":
            at = near.clamp(max=len(priors.grid) - 1)
            points = ((priors.grid + 0.5) * priors.strides[:, None])[at]
            taken = taken & ((points > gt.boxes[..., None, :2]) & (points < gt.boxes[..., None, 2:])).all(dim=-1)
        return torch.where(taken, near, len(priors.grid))

    def _candidates(self, priors, near, gt):
        """Returns:
        candidates (N, B + 1) as in _Batch, and slots (N, R + 1): where each prior stands there, B if nowhere.
        """
        num_images, num_gt, num_near = near.shape
        num_priors = len(priors.grid)
        is_candidate = torch.zeros(num_images, num_priors + 1, dtype=torch.bool, device=near.device)
        is_candidate.scatter_(1, near.flatten(1), True)
        bound = sum(min(h * w, num_near // len(priors.shapes) * num_gt) for h, w, _ in priors.shapes)
        if self.geometry == "union":
            bound = num_priors
            is_candidate[:, :num_priors] = _in_radius_or_box(priors, gt, self.radius)
        is_candidate[:, num_priors] = False
        slots = torch.where(is_candidate, is_candidate.cumsum(dim=1) - 1, bound)
        candidates = torch.full((num_images, bound + 1), num_priors, device=near.device)
        candidates.scatter_(1, slots, torch.arange(num_priors + 1, device=near.device).expand_as(slots))
        candidates[:, bound] = num_priors  # not what was written there last
        return candidates, slots

    def _gather(self, candidates, pred, gt):
        """What the costs are made of, at the candidates only."""
        num_priors = pred.obj_logits.shape[1]
        at = candidates.clamp(max=num_priors - 1)
        boxes = pred.boxes.gather(1, at[..., None].expand(-1, -1, 4)).float()
        planes = box_planes(torch.where((candidates < num_priors)[..., None], boxes, 0)).flatten(1)
        obj_probs = pred.obj_logits.gather(1, at).float().sigmoid().flatten()
        rows = (at + torch.arange(len(at), device=at.device)[:, None] * num_priors).flatten()
        logits = pred.cls_logits.flatten(0, 1)  # a view of what a head gives
        step = max(1, self.chunk // logits.shape[1])
        costs = [
            _log(_probs(logits.index_select(0, r), o[:, None]), complement=True).sum(dim=1).neg_()
            for r, o in zip(rows.split(step), obj_probs.split(step))
        ]
        gt_planes = box_planes(gt.boxes).flatten(1)
        return _Batch(
            candidates, planes, obj_probs, torch.cat(costs), pred.cls_logits, gt_planes, gt.classes.flatten(), gt.valid
        )

    def _match(self, batch, slots):
        """Args:
            slots: (N, M, C) of the near candidates of each box, ascending; B where there is none.
        Returns:
            (N, B + 1) the box of each candidate, 0..M-1, or -1.
        """
        num_images, num_gt, _ = slots.shape
        width = batch.candidates.shape[1]
        near = slots + torch.arange(num_images, device=slots.device)[:, None, None] * width
        boxes = torch.arange(num_images * num_gt, device=slots.device).view(num_images, num_gt, 1)
        exists = slots < width - 1
        costs = torch.where(exists, self._costs(batch, near, boxes), torch.inf)
        wanted, have = self._wanted(batch), exists.sum(dim=2)

        order = costs.sort(dim=2, stable=True).indices[..., : self.topk]  # bins are infinitely dear: last
        chosen = torch.arange(order.shape[2], device=slots.device) < wanted[..., None]
        claims = torch.where(chosen, near.gather(2, order), width - 1).flatten()
        claimants = boxes.expand_as(order).flatten() % num_gt
        owners = _owners(near, costs, batch.candidates.numel())

        lacks = (wanted > have) & batch.gt_valid & (batch.candidates[:, :1] < batch.cls_logits.shape[1])
        lacking = lacks.flatten().nonzero()[:, 0]
        if len(lacking):
            more = self._further(batch, lacking, slots.flatten(0, 1)[lacking], (wanted - have).flatten()[lacking])
            claims = torch.cat([claims, more.flatten()])
            claimants = torch.cat([claimants, (lacking % num_gt)[:, None].expand_as(more).flatten()])
            owners = self._settle_orphans(batch, claims, owners)

        count = torch.zeros_like(owners).scatter_add_(0, claims, torch.ones_like(claims))
        matched = torch.full_like(owners, -1).scatter_(0, claims, claimants)
        return torch.where(count > 1, owners, matched).view(num_images, width)

    def _wanted(self, batch):
        """(N, M) dynamic k. Its IoUs are with all candidates of the image, near or not."""
        num_images, width = batch.candidates.shape
        planes, gt_planes = batch.planes.view(4, num_images, width), batch.gt_planes.view(4, num_images, -1)
        boxes_a_step = max(1, self.chunk // width)
        images_a_step = max(1, boxes_a_step // gt_planes.shape[2])
        sums = []
        for preds, gts in zip(planes.split(images_a_step, dim=1), gt_planes.split(images_a_step, dim=1)):
            ious = (box_iou(gt[..., None], preds[:, :, None]) for gt in gts.split(boxes_a_step, dim=2))
            sums.append(torch.cat([x.topk(min(self.topk, width), dim=2).values.sum(dim=2) for x in ious], dim=1))
        return torch.cat(sums).long().clamp(min=1)

    def _costs(self, batch, candidates, boxes):
        """Eq. 1 for ids of candidates and boxes, whose shapes broadcast, without the penalty. Float32."""
        width = batch.candidates.shape[1]
        priors = batch.candidates.flatten()[candidates].clamp(max=batch.cls_logits.shape[1] - 1)
        logits = batch.cls_logits[candidates // width, priors, batch.gt_classes[boxes]]
        probs = _probs(logits, batch.obj_probs[candidates])
        # cross entropy with a one-hot target, summed over classes: as if no class were right, but for the right one
        costs = batch.no_class_cost[candidates] + _log(probs, complement=True) - _log(probs)
        planes = batch.planes.index_select(1, candidates.flatten()).view(4, *candidates.shape)
        ious = box_iou(planes, batch.gt_planes[:, boxes])
        return (costs - self.iou_weight * (ious + 1e-8).log()).nan_to_num(nan=torch.inf, posinf=torch.inf)

    def _further(self, batch, boxes, near_slots, lack):
        """The cheapest penalised candidates.

        Args:
            boxes: (D,) ids. near_slots: (D, C) of the candidates they have. lack: (D,) how many more they want.
        Returns:
            (D, min(topk, B + 1)) ids of candidates; a bin's id for none.
        """
        width = batch.candidates.shape[1]
        found = []
        step = max(1, self.chunk // width)
        for box, near, count in zip(boxes.split(step), near_slots.split(step), lack.split(step)):
            image = box // batch.gt_valid.shape[1]
            ids = image[:, None] * width + torch.arange(width, device=box.device)
            taken = (batch.candidates[image] == batch.cls_logits.shape[1]).scatter_(1, near, True)
            costs = (self._costs(batch, ids, box[:, None]) + self.penalty).masked_fill_(taken, torch.inf)
            order = costs.sort(dim=1, stable=True).indices[:, : self.topk]
            chosen = torch.arange(order.shape[1], device=box.device) < count[:, None]
            found.append(torch.where(chosen & ~taken.gather(1, order), ids.gather(1, order), width - 1))
        return torch.cat(found)

    def _settle_orphans(self, batch, claims, owners):
        """Owners of contested candidates that are near no box: the cheapest of all boxes of the image, all penalised."""
        num_gt, width = batch.gt_valid.shape[1], batch.candidates.shape[1]
        contested = torch.zeros_like(owners).scatter_add_(0, claims, torch.ones_like(claims)) > 1
        orphans = (contested & (owners < 0)).nonzero()[:, 0]
        settled = owners.clone()
        for ids in orphans.split(max(1, self.chunk // num_gt)):
            image = ids // width
            boxes = image[:, None] * num_gt + torch.arange(num_gt, device=ids.device)
            costs = self._costs(batch, ids[:, None], boxes) + self.penalty
            settled[ids] = costs.masked_fill_(~batch.gt_valid[image], torch.inf).argmin(dim=1)
        return settled


def _probs(cls_logits, obj_probs):
    """Geometric mean of class and objectness."""
    return cls_logits.float().sigmoid().mul_(obj_probs).sqrt_()


def _log(probs, complement=False):
    """log(p) or log(1 - p), not below -100, as PyTorch's cross entropy of probabilities has it."""
    return (probs.neg().log1p_() if complement else probs.log()).clamp_(min=-100)


def _owners(near, costs, num_ids):
    """For each candidate the box it is cheapest for among those it is near, the first of equals; -1 if near none.

    Args:
        near: (N, M, C) ids. costs: (N, M, C). num_ids: N * (B + 1).
    """
    num_gt = near.shape[1]
    ids, costs = near.flatten(), costs.flatten()
    lowest = costs.new_full((num_ids,), torch.inf).scatter_reduce_(0, ids, costs, "amin")
    boxes = torch.arange(num_gt, device=near.device)[:, None].expand_as(near).flatten()
    cheapest = torch.where(costs == lowest[ids], boxes, num_gt)
    owners = ids.new_full((num_ids,), num_gt).scatter_reduce_(0, ids, cheapest, "amin")
    return torch.where(owners < num_gt, owners, -1)


def _in_radius_or_box(priors, gt, radius):
    """(N, R) bool: the cell's centre is within the radius of any box's centre or in any box.

    Both regions are products of an interval of columns and one of rows, so a level is one matrix product.
    """
    centers, levels = centers_of(gt.boxes), []
    for height, width, stride in priors.shapes:
        hits = 0
        for low, high in ((centers - radius * stride, centers + radius * stride), gt.boxes.split(2, dim=2)):
            spans = []
            for axis, size in ((0, width), (1, height)):
                points = (torch.arange(size, device=gt.boxes.device) + 0.5) * stride
                spans.append((points > low[..., axis, None]) & (points < high[..., axis, None]) & gt.valid[..., None])
            hits = hits + torch.einsum("nmx,nmy->nyx", spans[0].float(), spans[1].float())
        levels.append((hits > 0).flatten(1))
    return torch.cat(levels, dim=1)


def _to_priors(batch, matched):
    """Assignment of all priors from the (N, B + 1) boxes matched with the candidates."""
    num_images, width = matched.shape
    num_gt, num_priors = batch.gt_valid.shape[1], batch.cls_logits.shape[1]
    first_box = torch.arange(num_images, device=matched.device)[:, None] * num_gt
    ious = box_iou(batch.planes.view(4, num_images, width), batch.gt_planes[:, first_box + matched.clamp(min=0)])
    ious = torch.where(matched >= 0, ious, 0)
    matched_idxs = matched.new_full((num_images, num_priors + 1), -1).scatter_(1, batch.candidates, matched)
    all_ious = ious.new_zeros(num_images, num_priors + 1).scatter_(1, batch.candidates, ious)
    return Assignment(matched_idxs[:, :-1], all_ious[:, :-1])
