"""RepPoints as a host of the varifocal loss: boxes are point sets, learnt in two stages, each with its own assignment.

Source: RepPoints (Yang et al., ICCV 2019), section 4, as mmdetection has it; VarifocalNet, Table 5, and its released code, which
takes the IoU of the refined box for the target and lets it be 0: such a location counts as background. Inference is VFNet's.

Shapes: N images, R locations over all levels, K classes, M boxes of an image. Boxes are XYXY in pixels of the network input.
"""

from functools import partial

from dense_d2.errors import UserError
from dense_d2.modeling.dense_detector import log_scalar
from dense_d2.modeling.dense_prediction import DenseLabels

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch.nn import functional as F

from ..points import broadcast_iou, ltrb_to_boxes
from ..vfnet import VFNet, flatten

__all__ = ["RepPoints"]


@META_ARCH_REGISTRY.register()
class RepPoints(VFNet):
    """Built from LazyConfig only: there are no yacs keys."""

    class_layers = ("head.reppoints_cls_out.",)

    @configurable
    def __init__(
        self,
        *,
        refine_assigner,
        box_loss_weight=0.5,
        refine_loss_weight=1.0,
        smooth_l1_beta=0.11,
        box_unit=4,
        **kwargs,
    ):
        """
        Args:
            kwargs: see `VFNet`; head: RepPointsHead; assigner: of the first boxes, see `PointAssigner`.
            refine_assigner: of the refined boxes and of the classes, by where the first boxes are, see `MaxIoUAssigner`.
            box_loss_weight, refine_loss_weight: of the first and of the refined boxes.
            smooth_l1_beta: error from which on the boxes' loss is linear.
            box_unit: unit of that error, strides.
        """
        box_loss = partial(_smooth_l1, beta=smooth_l1_beta)
        super().__init__(
            box_loss=box_loss, box_loss_weight=box_loss_weight, refine_loss_weight=refine_loss_weight, **kwargs
        )
        self.refine_assigner = refine_assigner
        self.box_unit = box_unit

    @classmethod
    def from_config(cls, cfg):
        raise UserError("RepPoints has no yacs keys: build it from configs/common/models/reppoints.py")

    def forward_training(self, images, features, predictions, gt_instances):
        """Returns the losses; assignment, decoding and losses run in float32."""
        grid = self.make_grid(predictions, images.image_sizes)
        with torch.autocast(device_type=grid.points.device.type, enabled=False):
            logits, ltrb, refined_ltrb, _ = flatten(predictions)
            boxes, refined_boxes = ltrb_to_boxes(grid.points, ltrb), ltrb_to_boxes(grid.points, refined_ltrb)
            targets = self.label_points(grid, gt_instances)
            refined_targets = self.label_boxes(grid, boxes.detach(), gt_instances)
            return self.losses(grid.of_levels(grid.strides), logits, boxes, refined_boxes, targets, refined_targets)

    @torch.no_grad()
    def label_boxes(self, grid, boxes, gt_instances):
        """The targets of the second stage. Padding of the batch is ignored, whatever the classification loss.

        Args:
            grid: PointGrid.
            boxes: (N, R, 4), the first boxes.
            gt_instances: see `label_points`, which gives the targets of the first stage.
        Returns:
            gt_labels (N, R), gt_boxes (N, R, 4), as from there.
        """
        gt_boxes = [gt.gt_boxes.tensor for gt in gt_instances]
        return self.gather_targets(self.refine_assigner(boxes, grid.is_valid(), gt_boxes), gt_instances)

    def losses(self, strides, logits, boxes, refined_boxes, targets, refined_targets):
        """
        Args:
            strides: (R,) of the location's level.
            logits: (N, R, K) float32.
            boxes, refined_boxes: (N, R, 4) float32.
            targets, refined_targets: pairs of gt_labels and gt_boxes, see `label_points` and `label_boxes`.
        Returns:
            dict of "loss_cls", "loss_box_reg" and "loss_box_refine". Each is divided by the foreground locations of its
            stage on this rank: as released, nothing is averaged over ranks.
        """
        unit = (self.box_unit * strides)[:, None]
        losses = {}
        for name, factor, predicted, (gt_labels, gt_boxes) in (
            ("loss_box_reg", self.box_loss_weight, boxes, targets),
            ("loss_box_refine", self.refine_loss_weight, refined_boxes, refined_targets),
        ):
            is_fg = (gt_labels >= 0) & (gt_labels < self.num_classes)
            # a mask instead of indices: nothing waits for the device
            error = self.box_loss(torch.where(is_fg[..., None], predicted, gt_boxes) / unit, gt_boxes / unit)
            losses[name] = factor * error.sum() / self.count_foreground(is_fg)
        log_scalar("num_fg_per_image", is_fg.sum() / len(is_fg))
        quality = broadcast_iou(refined_boxes.detach(), gt_boxes) * is_fg
        losses["loss_cls"] = self.cls_loss(logits, gt_labels, quality) / self.count_foreground(is_fg)
        return losses

    def count_foreground(self, is_fg):
        """An image without foreground counts as 1."""
        return is_fg.sum(dim=1).clamp(min=1).sum()

    def label_dense(self, images, predictions, gt_instances):
        """Returns a list of N `DenseLabels`, of the second stage. Args: gt_instances, see `label_points`."""
        grid = self.make_grid(predictions, images.image_sizes)
        boxes = ltrb_to_boxes(grid.points, flatten(predictions)[1])
        return [DenseLabels(*parts, None) for parts in zip(*self.label_boxes(grid, boxes, gt_instances))]


def _smooth_l1(boxes1, boxes2, *, beta):
    """Sum over the sides: (..., 4) twice -> (...)."""
    return F.smooth_l1_loss(boxes1, boxes2, reduction="none", beta=beta).sum(dim=-1)
