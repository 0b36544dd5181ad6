"""YOLOF, the meta-architecture: one feature map, uniform matching, focal and GIoU loss.

Source: YOLOF (Chen et al., CVPR 2021), section 4; where the released code differs, that code: it has the published AP.

Shapes: N images, H x W the feature map, A anchors a cell, R = H*W*A anchors, K classes, M ground-truth boxes of an
image, P (anchor, ground-truth box) pairs of the batch. Boxes are XYXY in pixels of the network input.
"""

from dense_d2.modeling.dense_detector import (
    DenseDetector,
    feature_shapes,
    log_scalar,
    mean_over_ranks,
    select_candidates,
    select_detections,
)
from dense_d2.modeling.dense_prediction import DenseLabels, DensePrediction
from dense_d2.modeling.losses import giou_loss, sigmoid_focal_loss

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_anchor_generator, build_backbone
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Boxes, pairwise_iou
from detectron2.structures.boxes import matched_pairwise_iou

from .box_coder import CenterClampBox2BoxTransform
from .head import YOLOFHead
from .released import from_author, from_mmdet
from .uniform_matcher import UniformMatcher

__all__ = ["YOLOF"]


@META_ARCH_REGISTRY.register()
class YOLOF(DenseDetector):
    """Detector on a single feature map."""

    class_layers = ("head.decoder.cls_score",)
    released_formats = (from_author, from_mmdet)

    @configurable
    def __init__(
        self,
        *,
        backbone,
        head,
        anchor_generator,
        box2box_transform,
        matcher,
        num_classes,
        neg_ignore_thresh=0.7,
        pos_ignore_thresh=0.15,
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        head_in_features=("res5",),
        test_score_thresh=0.05,
        test_nms_thresh=0.6,
        test_topk_candidates=1000,
        max_detections_per_image=100,
        **kwargs,
    ):
        """
        Args:
            backbone, num_classes, head_in_features, test_*, max_detections_per_image, kwargs: see `DenseDetector`.
            head: YOLOFHead.
            anchor_generator: Detectron2 anchor generator of one level, whose offset is 0 in all released models.
            box2box_transform: has `apply_deltas(deltas, anchors)`.
            matcher: callable (anchors (R, 4), pred_boxes (R, 4), gt_boxes (M, 4)) -> anchor_idxs (P,), gt_idxs (P,):
                the pairs of one image. See `UniformMatcher`.
            neg_ignore_thresh: unmatched anchors whose *predicted* box has a higher IoU with any box are ignored.
            pos_ignore_thresh: pairs whose *anchor* has a lower IoU with its ground truth are ignored.
            focal_loss_alpha, focal_loss_gamma: of the focal loss.
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
        if anchor_generator.num_anchors != [head.decoder.num_anchors]:
            raise ValueError(
                f"the anchor generator makes {anchor_generator.num_anchors} anchors a cell (one number a level), but "
                f"the decoder predicts {head.decoder.num_anchors} on one level; set head.decoder.num_anchors to "
                "len(sizes[0]) * len(aspect_ratios[0])"
            )
        if head.decoder.num_classes != num_classes:
            raise ValueError(
                f"num_classes is {num_classes} but head.decoder.num_classes is {head.decoder.num_classes}; "
                "set the first and link the second to it"
            )
        self.require_strides(anchor_generator.strides, "anchor_generator.strides")
        found = feature_shapes(backbone, self.head_in_features)[0].channels
        if found != head.encoder.in_channels:
            raise ValueError(
                f"{self.head_in_features[0]} has {found} channels, but head.encoder.in_channels is "
                f"{head.encoder.in_channels}; make them equal"
            )
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.matcher = matcher
        self.neg_ignore_thresh = neg_ignore_thresh
        self.pos_ignore_thresh = pos_ignore_thresh
        self.focal_loss_alpha = focal_loss_alpha
        self.focal_loss_gamma = focal_loss_gamma

    @classmethod
    def from_config(cls, cfg):
        yolof = cfg.MODEL.YOLOF
        backbone = build_backbone(cfg)
        (level,) = feature_shapes(backbone, [yolof.ENCODER.BACKBONE_LEVEL])
        anchor_generator = build_anchor_generator(cfg, [level])
        return {
            "backbone": backbone,
            "head": YOLOFHead(cfg, level, anchor_generator.num_anchors[0]),
            "anchor_generator": anchor_generator,
            "box2box_transform": CenterClampBox2BoxTransform(center_clamp=yolof.BOX_TRANSFORM.CTR_CLAMP),
            "matcher": UniformMatcher(topk=yolof.MATCHER.TOPK),
            "num_classes": yolof.DECODER.NUM_CLASSES,
            "neg_ignore_thresh": yolof.NEG_IGNORE_THRESHOLD,
            "pos_ignore_thresh": yolof.POS_IGNORE_THRESHOLD,
            "focal_loss_alpha": yolof.LOSSES.FOCAL_LOSS_ALPHA,
            "focal_loss_gamma": yolof.LOSSES.FOCAL_LOSS_GAMMA,
            "head_in_features": [yolof.ENCODER.BACKBONE_LEVEL],
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "test_score_thresh": yolof.SCORE_THRESH_TEST,
            "test_nms_thresh": yolof.NMS_THRESH_TEST,
            "test_topk_candidates": yolof.TOPK_CANDIDATES_TEST,
            "max_detections_per_image": yolof.DETECTIONS_PER_IMAGE,
        }

    def forward_training(self, images, features, predictions, gt_instances):
        """Returns the losses; matching, decoding and losses run in float32."""
        anchors, logits, deltas = self._dense_predictions(predictions)
        with torch.autocast(device_type=logits.device.type, enabled=False):
            pred_boxes = self.box2box_transform.apply_deltas(deltas, anchors)
            targets = self.label_anchors(anchors, pred_boxes.detach(), gt_instances)
            return self.losses(logits, pred_boxes, *targets)

    @torch.no_grad()
    def label_anchors(self, anchors, pred_boxes, gt_instances):
        """Assigns every anchor of the batch a class, and pairs some of them with ground-truth boxes.

        First, anchors that already predict a box well are ignored. Then the pairs are written over that, in their
        order: where several hold one anchor, the last wins, be it an ignored one.

        Args:
            anchors: (R, 4).
            pred_boxes: (N, R, 4).
            gt_instances: list of N Instances with `gt_boxes` and `gt_classes` (M,).
        Returns:
            gt_labels (N, R) int64: class, K for background, -1 for ignored;
            pair_idxs (P,): which of the N*R predictions; pair_boxes (P, 4): with which box;
            pair_weights (P,) float: 0 for ignored pairs. An anchor may be in several pairs, and all of them count.
        """
        num_images, num_anchors = pred_boxes.shape[:2]
        ious, anchor_idxs, idxs, boxes, classes = [], [], [], [], []
        for i, (boxes_i, gt) in enumerate(zip(pred_boxes, gt_instances)):
            # one column of zeros, for images without any box
            ious.append(F.pad(pairwise_iou(Boxes(boxes_i), gt.gt_boxes), (0, 1)).amax(dim=1))
            anchor_idxs_i, gt_idxs = self.matcher(anchors, boxes_i, gt.gt_boxes.tensor)
            anchor_idxs.append(anchor_idxs_i)
            idxs.append(anchor_idxs_i + i * num_anchors)
            boxes.append(gt.gt_boxes.tensor[gt_idxs])
            classes.append(gt.gt_classes[gt_idxs])
        pair_idxs, pair_boxes, pair_classes = torch.cat(idxs), torch.cat(boxes), torch.cat(classes)

        anchor_iou = matched_pairwise_iou(Boxes(anchors[torch.cat(anchor_idxs)]), Boxes(pair_boxes))
        kept = anchor_iou >= self.pos_ignore_thresh
        pair_labels = torch.where(kept, pair_classes, -1)

        gt_labels = torch.where(torch.cat(ious) > self.neg_ignore_thresh, -1, self.num_classes)
        last = _last_pairs(pair_idxs, len(gt_labels))
        gt_labels = torch.where(last > 0, F.pad(pair_labels, (1, 0))[last], gt_labels)
        return gt_labels.view(num_images, num_anchors), pair_idxs, pair_boxes, kept.float()

    def losses(self, logits, pred_boxes, gt_labels, pair_idxs, pair_boxes, pair_weights):
        """
        Args:
            logits: (N, R, K) float32.
            pred_boxes: (N, R, 4) float32, with gradient.
            gt_labels, pair_idxs, pair_boxes, pair_weights: see `label_anchors`.
        Returns:
            dict of "loss_cls" and "loss_box_reg", both divided by the number of distinct foreground anchors, averaged
            over ranks. The box loss sums over pairs, so an anchor in two pairs counts twice.
        """
        num_fg = ((gt_labels >= 0) & (gt_labels < self.num_classes)).sum().float()
        log_scalar("num_fg_per_image", num_fg / len(gt_labels))
        normalizer = mean_over_ranks(num_fg).clamp(min=1)
        loss_cls = sigmoid_focal_loss(logits, gt_labels, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma)
        loss_box_reg = (giou_loss(pred_boxes.flatten(0, 1)[pair_idxs], pair_boxes) * pair_weights).sum()
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    def forward_inference(self, images, features, predictions):
        """Returns the detections of each image."""
        return [self.select(*pair) for pair in zip(self.predict_dense(images, predictions), images.image_sizes)]

    def predict_dense(self, images, predictions):
        """Returns a list of N `DensePrediction`; its parts may be edited before `select`."""
        anchors, logits, deltas = self._dense_predictions(predictions)
        boxes = self.box2box_transform.apply_deltas(deltas, anchors)
        return [DensePrediction(*parts, None, [len(anchors)]) for parts in zip(logits.sigmoid(), boxes)]

    def label_dense(self, images, predictions, gt_instances):
        """Returns a list of N `DenseLabels`; of several pairs of an anchor, the last. Args: see `label_anchors`."""
        anchors, _, deltas = self._dense_predictions(predictions)
        pred_boxes = self.box2box_transform.apply_deltas(deltas, anchors)
        gt_labels, pair_idxs, pair_boxes, _ = self.label_anchors(anchors, pred_boxes, gt_instances)
        gt_boxes = F.pad(pair_boxes, (0, 0, 1, 0))[_last_pairs(pair_idxs, gt_labels.numel())].view_as(pred_boxes)
        return [DenseLabels(*parts, None) for parts in zip(gt_labels, gt_boxes)]

    def select(self, dense, image_size):
        """Chooses the detections of an image: candidates by score, then NMS.

        Args:
            dense: DensePrediction.
            image_size: (height, width) of the network input without padding.
        """
        scores, anchor_idxs, classes = select_candidates(
            dense.scores, self.test_score_thresh, self.test_topk_candidates
        )
        return select_detections(
            dense.boxes[anchor_idxs],
            scores,
            classes,
            image_size,
            nms_thresh=self.test_nms_thresh,
            max_detections=self.max_detections_per_image,
        )

    def _dense_predictions(self, predictions):
        """Anchors (R, 4), logits (N, R, K) and deltas (N, R, 4), float32; anchor index (y*W + x)*A + a."""
        logits, deltas = predictions
        anchors = self.anchor_generator([logits])[0].tensor
        return (
            anchors,
            permute_to_N_HWA_K(logits, self.num_classes).float(),
            permute_to_N_HWA_K(deltas, 4).float(),
        )


def _last_pairs(pair_idxs, num_predictions):
    """For each prediction 1 + the position of its last pair, 0 without; a scatter of labels has no defined order on GPUs."""
    order = torch.arange(1, len(pair_idxs) + 1, device=pair_idxs.device)
    return order.new_zeros(num_predictions).scatter_reduce(0, pair_idxs, order, "amax")
