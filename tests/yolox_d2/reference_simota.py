"""SimOTA in plain loops, image by image and box by box, as its definition reads: boxes x candidates x classes in memory."""

import torch
import torch.nn.functional as F


def reference_simota(priors, pred, gt, *, radius=1.5, geometry="center"):
    """-> matched_idxs (N, R), ious (N, R). Takes what `yolox_d2.simota.SimOTA` takes."""
    ious = torch.zeros(pred.obj_logits.shape, device=pred.obj_logits.device)
    matched = torch.full_like(ious, -1, dtype=torch.int64)
    for n in range(len(matched)):
        valid = gt.valid[n].nonzero()[:, 0]
        if len(valid):
            boxes, classes = gt.boxes[n, valid].float(), gt.classes[n, valid]
            prediction = [x[n].float() for x in pred]
            for prior, box, iou in one_image(priors, *prediction, boxes, classes, radius, geometry):
                matched[n, prior], ious[n, prior] = valid[box], iou
    return matched, ious


def one_image(priors, pred_boxes, cls_logits, obj_logits, boxes, classes, radius, geometry):
    """Yields (prior, box, IoU) for every positive."""
    near, candidates = regions(priors, boxes, radius, geometry)
    candidates = candidates.nonzero()[:, 0]
    if len(candidates) == 0:
        return
    iou, cost = ious_and_costs(pred_boxes, cls_logits, obj_logits, boxes, classes, candidates)
    cost = cost + {"center": 1e6, "union": 1e5}[geometry] * (~near[:, candidates]).float()
    wanted_by = [[] for _ in candidates]
    for j in range(len(boxes)):
        k = max(1, int(iou[j].sort(descending=True).values[:10].sum()))
        for column in cost[j].sort(stable=True).indices[:k].tolist():
            wanted_by[column].append(j)
    for column, takers in enumerate(wanted_by):
        if len(takers) == 1:
            yield candidates[column], takers[0], iou[takers[0], column]
        elif len(takers) > 1:
            best = min(range(len(boxes)), key=lambda j: cost[j, column].item())
            yield candidates[column], best, iou[best, column]


def regions(priors, boxes, radius, geometry):
    """near (G, R), candidates (R,)."""
    x, y = ((priors.grid + 0.5) * priors.strides[:, None]).unbind(1)
    near, candidates = [], torch.zeros_like(x, dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        reach = radius * priors.strides
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        in_radius = (x > cx - reach) & (x < cx + reach) & (y > cy - reach) & (y < cy + reach)
        in_box = (x > x0) & (x < x1) & (y > y0) & (y < y1)
        near.append(in_radius & in_box if geometry == "union" else in_radius)
        candidates |= in_radius | in_box if geometry == "union" else in_radius
    return torch.stack(near), candidates


def ious_and_costs(pred_boxes, cls_logits, obj_logits, boxes, classes, candidates):
    """(G, B) each, without the penalty."""
    preds = pred_boxes[candidates]
    probs = (cls_logits[candidates].sigmoid() * obj_logits[candidates, None].sigmoid()).sqrt()
    ious, costs = [], []
    for box, cls in zip(boxes, classes):
        size = (torch.min(box[2:], preds[:, 2:]) - torch.max(box[:2], preds[:, :2])).clamp(min=0)
        inter = size[:, 0] * size[:, 1]
        area = (preds[:, 2] - preds[:, 0]) * (preds[:, 3] - preds[:, 1])
        iou = inter / ((box[2] - box[0]) * (box[3] - box[1]) + area - inter)
        one_hot = F.one_hot(cls, probs.shape[1]).float().expand_as(probs)
        cls_cost = F.binary_cross_entropy(probs, one_hot, reduction="none").sum(1)
        ious.append(iou)
        costs.append(cls_cost + 3.0 * -torch.log(iou + 1e-8))
    return torch.stack(ious), torch.stack(costs)
