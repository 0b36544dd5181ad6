"""Predictions and boxes that assigners are tried on."""

import dataclasses

from yolox_d2.assignment import GroundTruth, Predictions, Priors, make_priors

import torch


@dataclasses.dataclass
class Scene:
    """`assigner(*scene)`, with parts that a test may change."""

    priors: Priors
    pred_boxes: torch.Tensor
    cls_logits: torch.Tensor
    obj_logits: torch.Tensor
    gt_boxes: torch.Tensor
    gt_classes: torch.Tensor
    gt_valid: torch.Tensor

    def __iter__(self):
        yield self.priors
        yield Predictions(self.pred_boxes, self.cls_logits, self.obj_logits)
        yield GroundTruth(self.gt_boxes, self.gt_classes, self.gt_valid)

    def change(self, change, names=("pred_boxes", "cls_logits", "obj_logits")):
        """Another scene, with `change` of some tensors."""
        return dataclasses.replace(self, **{name: change(getattr(self, name)) for name in names})

    def image(self, n):
        """The scene of one of its images."""
        return self.change(lambda x: x[n : n + 1], [field.name for field in dataclasses.fields(self)[1:]])


def priors_of(height=64, width=64, anchors=None):
    return make_priors([(height // s, width // s) for s in (8, 16, 32)], (8, 16, 32), anchors)


def random_scene(num_images, num_gt, height=128, width=160, num_classes=5, seed=0):
    """Predictions about their cells, boxes anywhere in the image, all valid."""
    generator = torch.Generator().manual_seed(seed)

    def randn(*shape):
        return torch.randn(num_images, *shape, generator=generator)

    priors, size = priors_of(height, width), torch.tensor([width, height])
    num_priors, strides = len(priors.grid), priors.strides[:, None]
    centers = (priors.grid + 0.5 + 0.5 * randn(num_priors, 2)) * strides
    half_sizes = strides * torch.exp(0.8 * randn(num_priors, 2) + 0.5)
    gt_centers = torch.rand(num_images, num_gt, 2, generator=generator) * size
    gt_half_sizes = torch.rand(num_images, num_gt, 2, generator=generator) * size / 4 + 2
    return Scene(
        priors,
        torch.cat([centers - half_sizes, centers + half_sizes], dim=2),
        randn(num_priors, num_classes) * 2 - 2,
        randn(num_priors) * 2 - 1,
        torch.cat([gt_centers - gt_half_sizes, gt_centers + gt_half_sizes], dim=2).clamp(min=0).min(size.repeat(2)),
        torch.randint(num_classes, (num_images, num_gt), generator=generator),
        torch.ones(num_images, num_gt, dtype=torch.bool),
    )


def plain_scene(gt_boxes, pred_boxes=None, gt_classes=None):
    """One image of 64 x 64 pixels, 84 cells, whose predictions all say the same: logits 0 for both classes and objectness,
    boxes nowhere.

    gt_boxes: list of XYXY. pred_boxes: {prior: XYXY}.
    """
    priors = priors_of()
    preds = torch.tensor([[-9.0, -9, -8, -8]]).repeat(len(priors.grid), 1)
    for prior, box in (pred_boxes or {}).items():
        preds[prior] = torch.tensor(box, dtype=torch.float32)
    gt_boxes = torch.tensor(gt_boxes, dtype=torch.float32).view(1, -1, 4)
    gt_classes = torch.tensor([gt_classes or [0] * gt_boxes.shape[1]])
    logits = torch.zeros(1, len(preds), 2)
    valid = torch.ones_like(gt_classes, dtype=torch.bool)
    return Scene(priors, preds[None], logits, logits[..., 0], gt_boxes, gt_classes, valid)


def positives(assignment, image=0):
    """{prior: box}"""
    matched_idxs = assignment.matched_idxs[image]
    return {i: matched_idxs[i].item() for i in (matched_idxs >= 0).nonzero()[:, 0].tolist()}
