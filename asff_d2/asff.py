"""ASFF, the meta-architecture: YOLOv3 with guided anchors, whose neck fuses its levels.

Source: ASFF (Liu et al. 2019), section 3; where the released code differs, that code: it has the published AP. What the
paper adds to YOLOv3 can be switched off one by one (Table 1): `head.guided_anchor`, `iou_loss`, the free slot, and the
fusion of the neck.

Shapes: N images, A slots a cell, K classes, R rows of an image over all levels, M ground-truth boxes of the batch. Boxes
are XYXY in pixels of the network input.
"""

from functools import partial

from dense_d2.modeling.dense_detector import DenseDetector, feature_shapes, log_scalar
from dense_d2.modeling.dense_prediction import DenseLabels, DensePrediction
from dense_d2.modeling.losses import iou_loss as box_iou_loss

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Boxes, Instances

from .anchors import Anchors, decode, wh_iou
from .conv import init_convs
from .head import GuidedYOLOHead
from .released import check_flags, flags_of, flags_of_model, from_author, from_imagenet, from_torchvision
from .targets import assign, gather_ground_truth

__all__ = ["ASFF"]

MIXUP_WEIGHTS = ("obj", "all")


@META_ARCH_REGISTRY.register()
class ASFF(DenseDetector):
    """YOLOv3 on the levels of a neck, `ASFFNeck` in all released models."""

    @configurable
    def __init__(
        self,
        *,
        backbone,
        head,
        anchors,
        num_classes,
        iou_loss=True,
        detach_anchors=False,
        ignore_thresh=0.7,
        adjacent_ignore=None,
        label_smoothing=True,
        mixup_weight="obj",
        init_slope=0.1,
        head_in_features=("p3", "p4", "p5"),
        test_score_thresh=0.01,
        test_nms_thresh=0.65,
        test_topk_candidates=10000,
        max_detections_per_image=100,
        clip_boxes=False,
        **kwargs,
    ):
        """
        Args:
            backbone, num_classes, head_in_features, test_*, max_detections_per_image, kwargs: see `DenseDetector`. Each row
                is a candidate with its best class only.
            head: GuidedYOLOHead.
            anchors: Anchors.
            iou_loss: whether to have the IoU loss of the boxes beside those of centre and size.
            detach_anchors: keep gradients of the box losses from the anchor shapes; released: no.
            ignore_thresh, adjacent_ignore, label_smoothing: see `targets.assign`.
            mixup_weight: which losses of a box its share in a mixed-up image weighs: "obj", its objectness, as released;
                "all".
            init_slope: slope of the leaky ReLU that the initial weights are meant for; see `init_convs`.
        """
        super().__init__(
            backbone=backbone,
            head=head,
            head_in_features=head_in_features,
            num_classes=num_classes,
            test_score_thresh=test_score_thresh,
            test_nms_thresh=test_nms_thresh,
            test_topk_candidates=test_topk_candidates,
            max_detections_per_image=max_detections_per_image,
            clip_boxes=clip_boxes,
            **kwargs,
        )
        if head.num_slots != anchors.num_slots or head.num_classes != num_classes:
            raise ValueError(
                f"the head has {head.num_slots} slots a cell and {head.num_classes} classes, the model {anchors.num_slots} "
                f"and {num_classes}; link head.num_priors, head.free_slot and head.num_classes to them"
            )
        self.require_strides(anchors.level_strides, "anchors.strides")
        if mixup_weight not in MIXUP_WEIGHTS:
            raise ValueError(f"mixup_weight={mixup_weight!r} is not known; use one of {MIXUP_WEIGHTS}")
        self.anchors = anchors
        self.iou_loss = iou_loss
        self.detach_anchors = detach_anchors
        self.ignore_thresh = ignore_thresh
        self.adjacent_ignore = adjacent_ignore
        self.label_smoothing = label_smoothing
        self.mixup_weight = mixup_weight
        self.class_layers = tuple(f"head.levels.{i}.predict" for i in range(len(head.levels)))
        self.released_formats = (self._from_author, from_imagenet, from_torchvision)
        init_convs(self, init_slope)
        for module in backbone.modules():
            if hasattr(module, "init_weights"):
                module.init_weights(init_slope)

    @classmethod
    def from_config(cls, cfg):
        asff = cfg.MODEL.ASFF
        backbone = build_backbone(cfg)
        shapes = feature_shapes(backbone, asff.IN_FEATURES)
        anchors = Anchors(priors=asff.ANCHORS, strides=[shape.stride for shape in shapes], free_slot=asff.FREE_SLOT)
        return {
            "backbone": backbone,
            "head": GuidedYOLOHead(
                in_channels=[shape.channels for shape in shapes],
                num_classes=asff.NUM_CLASSES,
                num_priors=anchors.num_priors,
                free_slot=asff.FREE_SLOT,
                guided_anchor=asff.GUIDED_ANCHOR,
                adaption=asff.GUIDED_ANCHOR,
                rfb=asff.RFB,
            ),
            "anchors": anchors,
            "num_classes": asff.NUM_CLASSES,
            "iou_loss": asff.IOU_LOSS,
            "detach_anchors": asff.DETACH_ANCHORS,
            "ignore_thresh": asff.IGNORE_THRESH,
            "adjacent_ignore": asff.ADJACENT_IGNORE if asff.ADJACENT_IGNORE >= 0 else None,
            "label_smoothing": asff.LABEL_SMOOTHING,
            "mixup_weight": asff.MIXUP_WEIGHT,
            "head_in_features": asff.IN_FEATURES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "test_score_thresh": asff.SCORE_THRESH_TEST,
            "test_nms_thresh": asff.NMS_THRESH_TEST,
            "test_topk_candidates": asff.TOPK_CANDIDATES_TEST,
            "max_detections_per_image": asff.DETECTIONS_PER_IMAGE,
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """Returns the losses; assignment, decoding and losses run in float32."""
        grid, outputs, shapes = self._dense_predictions(predictions)
        gt = gather_ground_truth(gt_instances)
        with torch.autocast(device_type=outputs.device.type, enabled=False):
            targets = self._assign(grid, outputs, shapes, gt)
            return self.losses(grid, outputs, shapes, gt, targets, images.tensor.shape[-2:])

    @torch.no_grad()
    def _assign(self, grid, outputs, shapes, gt):
        anchor_wh = grid.sizes * shapes.exp()
        return assign(
            self.anchors,
            grid,
            anchor_wh,
            decode(outputs[..., :4], anchor_wh, grid.cells, grid.strides),
            gt,
            num_classes=self.num_classes,
            ignore_thresh=self.ignore_thresh,
            label_smoothing=self.label_smoothing,
            adjacent_ignore=self.adjacent_ignore,
        )

    def losses(self, grid, outputs, shapes, gt, targets, image_size):
        """
        Args:
            grid: Grid; outputs: (N, R, 5 + K); shapes: (N, R, 2); gt: GroundTruth; targets: Targets.
            image_size: (H, W) of the padded images.
        Returns:
            dict of "loss_anchor" (guided anchors only), "loss_iou" (if wanted), "loss_xy", "loss_wh", "loss_obj" and
            "loss_cls": sums, divided by N. The L1 loss of released logs is xy + wh.
        """
        num_images, num_rows = outputs.shape[:2]
        outputs, shapes = outputs.flatten(0, 1), shapes.flatten(0, 1)
        rows = targets.rows
        cells, strides, sizes = grid.take(rows % num_rows)
        anchor_wh = sizes * shapes[rows].exp()
        if self.detach_anchors:
            anchor_wh = anchor_wh.detach()
        positive = outputs[rows]
        gt_wh = gt.boxes[:, 2:] - gt.boxes[:, :2]
        xy_target = (gt.boxes[:, :2] + gt.boxes[:, 2:]) / 2 / strides - cells
        # not detached: the targets of the size pull at the guided anchors, too, as released
        wh_target = (gt_wh / anchor_wh + 1e-12).log()

        share = gt.weights if self.mixup_weight == "all" else torch.ones_like(gt.weights)
        counts = targets.mask * share
        scale = counts * (2 - gt_wh.prod(dim=1) / (image_size[0] * image_size[1]))
        bce = F.binary_cross_entropy_with_logits
        losses = {
            "loss_xy": (scale * bce(positive[:, :2], xy_target, reduction="none").sum(dim=1)).sum(),
            "loss_wh": (scale * (positive[:, 2:4] - wh_target).abs().sum(dim=1)).sum(),
            "loss_obj": bce(outputs[:, 4], targets.obj_targets, targets.obj_weights, reduction="sum"),
            "loss_cls": (counts * bce(positive[:, 5:], targets.class_targets, reduction="none").sum(dim=1)).sum(),
        }
        if self.iou_loss:
            boxes = decode(positive[:, :4], anchor_wh, cells, strides)
            losses["loss_iou"] = (scale * box_iou_loss(boxes, targets.boxes)).sum()
        if self.head.guided_anchor:
            guided_wh = grid.sizes[targets.shape_rows % num_rows] * shapes[targets.shape_rows].exp()
            anchor_loss = 1 - wh_iou(guided_wh, gt_wh[targets.shape_idxs]) ** 2
            losses["loss_anchor"] = (targets.shape_mask * share[targets.shape_idxs] * anchor_loss).sum()
        log_scalar("num_fg_per_image", targets.mask.sum() / num_images)
        return {name: value / num_images for name, value in losses.items()}

    def forward_inference(self, images, features, predictions):
        """Returns the detections of each image, with `pred_levels`, the index of the level in `head_in_features`, and
        `pred_slots`, that of the slot, for pictures of who found what."""
        grid, outputs, shapes = self._dense_predictions(predictions)
        results = []
        for outputs_i, shapes_i, image_size in zip(outputs, shapes, images.image_sizes):
            # of the best class only, and below decoded for candidates only: `predict_dense` takes four times as long
            best, classes = outputs_i[:, 5:].max(dim=1)
            scores = outputs_i[:, 4].sigmoid() * best.sigmoid()
            decode_rows = partial(_decode_rows, grid, outputs_i, shapes_i)
            results.append(self._detect(scores, classes, decode_rows, grid.level_idxs, image_size))
        return results

    def predict_dense(self, images, predictions):
        """Returns a list of N `DensePrediction`, objectness for centerness; its parts may be edited before `select`."""
        grid, outputs, shapes = self._dense_predictions(predictions)
        boxes = decode(outputs[..., :4], grid.sizes * shapes.exp(), grid.cells, grid.strides)
        num_rows = [height * width * self.anchors.num_slots for height, width in grid.shapes]
        parts = zip(outputs[..., 5:].sigmoid(), boxes, outputs[..., 4].sigmoid())
        return [DensePrediction(*parts_i, num_rows) for parts_i in parts]

    def label_dense(self, images, predictions, gt_instances):
        """Returns a list of N `DenseLabels`. Args: gt_instances, see `gather_ground_truth`."""
        grid, outputs, shapes = self._dense_predictions(predictions)
        gt = gather_ground_truth(gt_instances)
        targets = self._assign(grid, outputs, shapes, gt)
        rows = targets.rows[targets.mask]
        classes = torch.full_like(targets.obj_targets, self.num_classes, dtype=torch.int64)
        boxes = gt.boxes.new_zeros(len(classes), 4)
        classes[rows], boxes[rows] = gt.classes[targets.mask], gt.boxes[targets.mask]
        num_images = len(gt_instances)
        parts = (part.unflatten(0, (num_images, -1)) for part in (classes, boxes, targets.obj_targets))
        return [DenseLabels(*parts_i) for parts_i in zip(*parts)]

    def select(self, dense, image_size):
        """Chooses the detections of an image: a row is a candidate with its best class only.

        Args:
            dense: DensePrediction.
            image_size: (height, width) of the network input without padding.
        """
        scores, classes = dense.best_class()
        num_rows = torch.tensor(dense.num_points, device=scores.device)
        level_idxs = torch.arange(len(num_rows), device=scores.device).repeat_interleave(num_rows)
        return self._detect(scores, classes, dense.boxes.__getitem__, level_idxs, image_size)

    def _detect(self, scores, classes, boxes_of, level_idxs, image_size):
        """Args: scores, classes and level_idxs (R,); boxes_of, rows (n,) -> (n, 4)."""
        rows = (scores >= self.test_score_thresh).nonzero().squeeze(1)
        scores, order = scores[rows].topk(min(self.test_topk_candidates, len(rows)))
        rows = rows[order]
        boxes, classes = boxes_of(rows), classes[rows]
        keep = batched_nms(boxes, scores, classes, self.test_nms_thresh)[: self.max_detections_per_image]
        return Instances(
            image_size,
            pred_boxes=Boxes(boxes[keep]),
            scores=scores[keep],
            pred_classes=classes[keep],
            pred_levels=level_idxs[rows[keep]],
            pred_slots=rows[keep] % self.anchors.num_slots,
        )

    def _dense_predictions(self, predictions):
        """Grid, outputs (N, R, 5 + K) and shapes (N, R, 2), float32; zeros where anchors are not guided."""
        outputs, shapes = predictions
        grid = self.anchors([x.shape[-2:] for x in outputs])
        outputs = torch.cat([permute_to_N_HWA_K(x, 5 + self.num_classes) for x in outputs], dim=1).float()
        if not self.head.guided_anchor:
            return grid, outputs, outputs.new_zeros(()).expand(*outputs.shape[:2], 2)
        return grid, outputs, torch.cat([permute_to_N_HWA_K(x, 2) for x in shapes], dim=1).float()

    def _from_author(self, state):
        """a checkpoint of ASFF's authors."""
        found = flags_of(state)
        if found is None:
            return None
        check_flags(found, flags_of_model(self))
        return from_author(state)


def _decode_rows(grid, outputs, shapes, rows):
    """Boxes (n, 4) of some rows of an image."""
    cells, strides, sizes = grid.take(rows)
    return decode(outputs[rows, :4], sizes * shapes[rows].exp(), cells, strides)
