"""VFNet, the meta-architecture: IoU-aware classification, a star convolution and refined boxes on a pyramid.

Source: VarifocalNet (Zhang et al., CVPR 2021); where the released code differs, that code: it has the published AP. Paper,
Eq. 3: both box losses are divided by the number of positives. Code: each by the sum of its own weights, and each is weighted
by the IoU of its own box.

Shapes: N images, R locations over all levels, K classes, M ground-truth boxes of an image. Boxes are XYXY, distances are
(left, top, right, bottom), both in pixels of the network input.
"""

from dense_d2.modeling.dense_detector import (
    DenseDetector,
    feature_shapes,
    log_scalar,
    mean_over_ranks,
    select_detections,
)
from dense_d2.modeling.dense_prediction import DenseLabels, DensePrediction
from dense_d2.modeling.losses import giou_loss

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Boxes, Instances
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from .atss import IGNORED, ATSSAssigner
from .head import VFNetHead
from .points import PointGrid, broadcast_iou, ltrb_to_boxes
from .released import from_imagenet, from_mmdet
from .soft_nms import soft_nms as run_soft_nms
from .varifocal_loss import VarifocalLoss

__all__ = ["MIN_QUALITY", "DensePrediction", "VFNet", "flatten"]

MIN_QUALITY = 1e-6  # so that the IoU never makes a background of a positive


@META_ARCH_REGISTRY.register()
class VFNet(DenseDetector):
    """Detector on a feature pyramid."""

    class_layers = ("head.vfnet_cls.",)
    released_formats = (from_mmdet, from_imagenet)

    @configurable
    def __init__(
        self,
        *,
        backbone,
        head,
        assigner,
        cls_loss,
        num_classes,
        box_loss=giou_loss,
        box_loss_weight=1.5,
        refine_loss_weight=2.0,
        head_in_features=("p3", "p4", "p5", "p6", "p7"),
        test_score_thresh=0.05,
        test_nms_thresh=0.6,
        test_topk_candidates=1000,
        max_detections_per_image=100,
        soft_nms=False,
        **kwargs,
    ):
        """
        Args:
            backbone, num_classes, head_in_features, max_detections_per_image, kwargs: see `DenseDetector`.
            head: VFNetHead.
            assigner: see `ATSSAssigner`.
            cls_loss: see `varifocal_loss`.
            box_loss: callable (boxes (P, 4), gt boxes (P, 4)) -> (P,).
            box_loss_weight, refine_loss_weight: of the initial and of the refined boxes.
            test_score_thresh: (location, class) pairs with a lower score are dropped, after the choice of locations.
            test_nms_thresh: IoU above which the lower of two detections of a class is dropped; with soft-NMS, from
                which on it is decayed.
            test_topk_candidates: how many locations of each level, by their best class, go on.
            soft_nms: lowers the scores of overlapping detections instead of dropping them.
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
            **kwargs,
        )
        if head.num_classes != num_classes:
            raise ValueError(
                f"num_classes is {num_classes} but head.num_classes is {head.num_classes}; set the first and link the "
                "second to it"
            )
        self.require_strides(head.strides, "head.strides")
        self.assigner = assigner
        self.cls_loss = cls_loss
        self.box_loss = box_loss
        self.box_loss_weight, self.refine_loss_weight = box_loss_weight, refine_loss_weight
        self.soft_nms = soft_nms

    @classmethod
    def from_config(cls, cfg):
        vfnet = cfg.MODEL.VFNET
        backbone = build_backbone(cfg)
        shapes = feature_shapes(backbone, vfnet.IN_FEATURES)
        return {
            "backbone": backbone,
            "head": VFNetHead(
                in_channels=shapes[0].channels,
                feat_channels=vfnet.FEAT_CHANNELS,
                num_convs=vfnet.NUM_CONVS,
                num_classes=vfnet.NUM_CLASSES,
                strides=[shape.stride for shape in shapes],
                bbox_norm=vfnet.BBOX_NORM,
                deform_last_conv=vfnet.DEFORM_LAST_CONV,
                prior_prob=vfnet.PRIOR_PROB,
            ),
            "assigner": ATSSAssigner(topk=vfnet.ATSS_TOPK),
            "cls_loss": VarifocalLoss(
                alpha=vfnet.VFL_ALPHA, gamma=vfnet.VFL_GAMMA, iou_weighted=vfnet.VFL_IOU_WEIGHTED
            ),
            "num_classes": vfnet.NUM_CLASSES,
            "box_loss_weight": vfnet.BOX_LOSS_WEIGHT,
            "refine_loss_weight": vfnet.REFINE_LOSS_WEIGHT,
            "head_in_features": vfnet.IN_FEATURES,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "test_score_thresh": vfnet.SCORE_THRESH_TEST,
            "test_nms_thresh": vfnet.NMS_THRESH_TEST,
            "test_topk_candidates": vfnet.TOPK_CANDIDATES_TEST,
            "max_detections_per_image": vfnet.DETECTIONS_PER_IMAGE,
            "soft_nms": vfnet.SOFT_NMS,
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """Returns the losses; assignment, decoding and losses run in float32."""
        grid = self.make_grid(predictions, images.image_sizes)
        with torch.autocast(device_type=grid.points.device.type, enabled=False):
            logits, ltrb, refined_ltrb, centerness = flatten(predictions)
            gt_labels, gt_boxes = self.label_points(grid, gt_instances)
            return self.losses(grid.points, logits, ltrb, refined_ltrb, centerness, gt_labels, gt_boxes)

    def make_grid(self, predictions, image_sizes):
        """The locations of a batch. Args: image_sizes, (height, width) of each image without padding."""
        return PointGrid.of(predictions.logits, self.head.strides, image_sizes, self.assigner.offset)

    @torch.no_grad()
    def label_points(self, grid, gt_instances):
        """Assigns every location of the batch a class, and a box to those of the foreground.

        Args:
            grid: PointGrid.
            gt_instances: list of N Instances with `gt_boxes` and `gt_classes` (M,).
        Returns:
            gt_labels (N, R) int64: class, K for background, -1 for ignored; gt_boxes (N, R, 4), zeros without.
        """
        matched = self.assigner(grid, [gt.gt_boxes.tensor for gt in gt_instances])
        gt_labels, gt_boxes = self.gather_targets(matched, gt_instances)
        if self.assigner.ignores_padding and not self.cls_loss.counts_padding:
            gt_labels = torch.where(grid.is_valid(), gt_labels, -1)
        return gt_labels, gt_boxes

    def gather_targets(self, matched, gt_instances):
        """Args: matched (N, R), what an assigner returns. Returns: see `label_points`."""
        # one entry more, which -1, BACKGROUND, picks; this also lets batches without any box pass
        boxes = F.pad(torch.cat([gt.gt_boxes.tensor for gt in gt_instances]), (0, 0, 0, 1))
        classes = F.pad(torch.cat([gt.gt_classes for gt in gt_instances]), (0, 1), value=self.num_classes)
        picked = matched.clamp(min=-1)
        return torch.where(matched == IGNORED, -1, classes[picked]), boxes[picked]

    def losses(self, points, logits, ltrb, refined_ltrb, centerness, gt_labels, gt_boxes):
        """
        Args:
            points: (R, 2).
            logits: (N, R, K) float32.
            ltrb, refined_ltrb: (N, R, 4) float32; the second may be None.
            centerness: (N, R, 1) float32 logits, or None.
            gt_labels, gt_boxes: see `label_points`.
        Returns:
            dict of "loss_cls", "loss_box_reg" and, as the head has them, "loss_box_refine" and "loss_centerness".
            Classes and centerness are divided by the number of foreground locations, boxes by the sum of their
            weights: the IoU, or with the centerness branch the centerness. All are means over ranks and at least 1.
        """
        is_fg = (gt_labels >= 0) & (gt_labels < self.num_classes)
        log_scalar("num_fg_per_image", is_fg.sum() / len(gt_labels))
        # masks instead of indices: nothing waits for the device
        boxes, quality = _compare(points, ltrb, gt_boxes, is_fg)
        gt_centerness = None if centerness is None else _centerness(points, gt_boxes, is_fg)
        weight = quality if centerness is None else gt_centerness
        box_terms = {"loss_box_reg": (self.box_loss_weight, boxes, weight)}
        if refined_ltrb is not None:
            boxes, quality = _compare(points, refined_ltrb, gt_boxes, is_fg)
            box_terms["loss_box_refine"] = (self.refine_loss_weight, boxes, quality)

        # one reduction, which every rank reaches whatever its images hold
        sums = torch.stack(
            [self.count_foreground(is_fg).float(), *(weight.sum() for _, _, weight in box_terms.values())]
        )
        num_fg, *box_normalizers = mean_over_ranks(sums).clamp(min=1).unbind()

        losses = {"loss_cls": self.cls_loss(logits, gt_labels, quality) / num_fg}
        for (name, (factor, boxes, weight)), normalizer in zip(box_terms.items(), box_normalizers):
            loss = self.box_loss(boxes.flatten(0, 1), gt_boxes.flatten(0, 1)) * weight.flatten()
            losses[name] = factor * loss.sum() / normalizer
        if centerness is not None:
            loss = F.binary_cross_entropy_with_logits(centerness.squeeze(-1), gt_centerness, reduction="none")
            losses["loss_centerness"] = (loss * is_fg).sum() / num_fg
        return losses

    def count_foreground(self, is_fg):
        """What classes and centerness are divided by, on this rank. Args: is_fg (N, R) bool."""
        return is_fg.sum()

    def forward_inference(self, images, features, predictions):
        """Returns the detections of each image."""
        return [self.select(*pair) for pair in zip(self.predict_dense(images, predictions), images.image_sizes)]

    def predict_dense(self, images, predictions):
        """Returns a list of N `DensePrediction`; its parts may be edited before `select`."""
        grid = self.make_grid(predictions, images.image_sizes)
        logits, ltrb, refined_ltrb, centerness = flatten(predictions)
        boxes = ltrb_to_boxes(grid.points, ltrb if refined_ltrb is None else refined_ltrb)
        centerness = [None] * len(boxes) if centerness is None else centerness.squeeze(-1).sigmoid()
        return [DensePrediction(*parts, grid.num_points) for parts in zip(logits.sigmoid(), boxes, centerness)]

    def label_dense(self, images, predictions, gt_instances):
        """Returns a list of N `DenseLabels`. Args: gt_instances, see `label_points`."""
        grid = self.make_grid(predictions, images.image_sizes)
        gt_labels, gt_boxes = self.label_points(grid, gt_instances)
        centerness = [None] * len(gt_labels)
        if predictions.centerness is not None:
            is_fg = (gt_labels >= 0) & (gt_labels < self.num_classes)
            centerness = _centerness(grid.points, gt_boxes, is_fg)
        return [DenseLabels(*parts) for parts in zip(gt_labels, gt_boxes, centerness)]

    def select(self, dense, image_size):
        """Chooses the detections of an image.

        Args:
            dense: DensePrediction.
            image_size: (height, width) of the network input without padding; boxes are cut to it.
        Returns:
            Instances with `pred_boxes`, `scores` (descending) and `pred_classes`.
        """
        kept = self._best_points(dense)
        boxes = clip_boxes_to_image(dense.boxes[kept], image_size)
        scores = dense.scores[kept]
        point_idxs, classes = (scores > self.test_score_thresh).nonzero().unbind(dim=1)
        boxes, scores = boxes[point_idxs], scores[point_idxs, classes]
        if dense.centerness is not None:
            scores = scores * dense.centerness[kept][point_idxs]
        limits = dict(max_detections=self.max_detections_per_image)
        if not self.soft_nms:
            return select_detections(boxes, scores, classes, image_size, nms_thresh=self.test_nms_thresh, **limits)
        keep, scores = run_soft_nms(boxes, scores, classes, iou_thresh=self.test_nms_thresh, **limits)
        return Instances(image_size, pred_boxes=Boxes(boxes[keep]), scores=scores, pred_classes=classes[keep])

    def _best_points(self, dense):
        """Indices into R: of each level the locations whose best class scores highest. Paper: the threshold first."""
        best_scores, _ = dense.best_class()
        kept, first = [], 0
        for scores in best_scores.split(dense.num_points):
            kept.append(scores.topk(min(self.test_topk_candidates, len(scores))).indices + first)
            first += len(scores)
        return torch.cat(kept)


def flatten(predictions):
    """`VFNetPredictions`, each part as one (N, R, channels) float32 tensor or None."""
    return [
        None if maps is None else torch.cat([permute_to_N_HWA_K(x, x.shape[1]) for x in maps], dim=1).float()
        for maps in predictions
    ]


def _compare(points, ltrb, gt_boxes, is_fg):
    """Boxes of the foreground (N, R, 4), with gradient, and their IoU with the ground truth (N, R), without; 0 elsewhere."""
    boxes = ltrb_to_boxes(points, torch.where(is_fg[..., None], ltrb, 1.0))
    quality = broadcast_iou(boxes.detach(), gt_boxes).clamp(min=MIN_QUALITY)
    return boxes, quality * is_fg


def _centerness(points, gt_boxes, is_fg):
    """(N, R): FCOS, Eq. 3, at the foreground; 0 elsewhere."""
    sides = torch.stack([points - gt_boxes[..., :2], gt_boxes[..., 2:] - points], dim=-1)
    sides = torch.where(is_fg[..., None, None], sides, 1.0)  # (N, R, 2 axes, 2 sides)
    return (sides.amin(dim=-1) / sides.amax(dim=-1)).prod(dim=-1).sqrt() * is_fg
