"""RetinaNet with exchangeable classification loss: the host of VFNet's Table 5 and of ASFF's Table 5.

Source: Lin et al. 2017, "Focal Loss"; Detectron2's `RetinaNet`, whose losses, detections and names of weights it has by
default; mmdetection's RetinaNet, the host of VFNet's study, where arguments say so.

Shapes: N images, L levels, Hi x Wi the map of level i, A anchors a cell, R = sum of Hi*Wi*A anchors, K classes, M
ground-truth boxes of an image, P foreground anchors of the batch. Boxes are XYXY in pixels of the network input.
"""

import math

from dense_d2.modeling.dense_detector import DenseDetector, log_scalar, select_candidates, select_detections
from dense_d2.modeling.dense_prediction import DenseLabels, DensePrediction
from dense_d2.modeling.losses import giou_loss, sigmoid_focal_loss

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import RetinaNet
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Boxes, pairwise_iou
from detectron2.structures.boxes import matched_pairwise_iou
from fvcore.nn import smooth_l1_loss

from .released import from_imagenet

__all__ = ["BestOfBoxMatcher", "DenseRetinaNet"]

EMA_START, EMA_DECAY = 100.0, 0.9  # of Detectron2's loss normalizer
SIZE_DIVISOR = 32  # what mmdetection pads each image to before it batches them


@META_ARCH_REGISTRY.register()
class DenseRetinaNet(DenseDetector):
    """Anchor-based detector on a feature pyramid."""

    class_layers = ("head.cls_score.",)
    released_formats = (from_imagenet,)

    @configurable
    def __init__(
        self,
        *,
        backbone,
        head,
        anchor_generator,
        box2box_transform,
        anchor_matcher,
        num_classes,
        cls_loss=None,
        focal_loss_alpha=0.25,
        focal_loss_gamma=2.0,
        box_reg_loss_type="smooth_l1",
        smooth_l1_beta=0.0,
        loss_normalizer="ema",
        ignore_padding=False,
        head_in_features=("p3", "p4", "p5", "p6", "p7"),
        test_score_thresh=0.05,
        test_nms_thresh=0.5,
        test_topk_candidates=1000,
        max_detections_per_image=100,
        **kwargs,
    ):
        """
        Args:
            backbone, num_classes, head_in_features, test_*, max_detections_per_image, kwargs: see `DenseDetector`;
                `test_topk_candidates` is of each level.
            head: Detectron2's `RetinaNetHead`.
            anchor_generator: Detectron2 anchor generator with one entry of `strides` a level.
            box2box_transform: Detectron2's `Box2BoxTransform`.
            anchor_matcher: Detectron2's `Matcher`, or `BestOfBoxMatcher`; its labels are 1 foreground, 0 background, -1
                ignored.
            cls_loss: callable (logits (N, R, K), labels (N, R), quality (N, R)) -> scalar sum. Labels are 0..K-1, K for
                background, -1 for ignored; quality is the IoU of predicted and ground-truth box, 0 outside of the
                foreground. None: the focal loss with the next two arguments.
            focal_loss_alpha, focal_loss_gamma: of that focal loss.
            box_reg_loss_type: "smooth_l1" of the deltas, or "giou" of the boxes.
            smooth_l1_beta: where smooth L1 turns from square to absolute; 0 is L1.
            loss_normalizer: both losses are divided by the number of foreground anchors on this GPU. "ema": at least 1
                a batch, and its moving average (Detectron2). "batch": at least 1 an image (mmdetection).
            ignore_padding: ignore the anchors of cells beyond an image's own size, rounded up to a multiple of 32
                (mmdetection); otherwise they are background.
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
        _check(head, anchor_generator, num_classes, box_reg_loss_type, loss_normalizer)
        self.require_strides(anchor_generator.strides, "anchor_generator.strides")
        self.anchor_generator = anchor_generator
        self.box2box_transform = box2box_transform
        self.anchor_matcher = anchor_matcher
        self.cls_loss = cls_loss
        self.focal_loss_alpha, self.focal_loss_gamma = focal_loss_alpha, focal_loss_gamma
        self.box_reg_loss_type, self.smooth_l1_beta = box_reg_loss_type, smooth_l1_beta
        self.ignore_padding = ignore_padding
        self.uses_ema = loss_normalizer == "ema"
        if self.uses_ema:  # a buffer, so that a resumed run goes on with it
            self.register_buffer("loss_normalizer", torch.tensor(EMA_START))

    @classmethod
    def from_config(cls, cfg):
        """From Detectron2's own keys, `MODEL.RETINANET`."""
        options = RetinaNet.from_config(cfg)
        del options["vis_period"]
        return options

    def forward_training(self, images, features, predictions, gt_instances):
        """Returns the losses; matching, decoding and losses run in float32."""
        anchors, logits, deltas = self._dense_predictions(predictions)
        with torch.autocast(device_type=logits[0].device.type, enabled=False):
            anchors, logits, deltas = torch.cat(anchors), torch.cat(logits, dim=1), torch.cat(deltas, dim=1)
            in_image = self._in_image(predictions[0], images.image_sizes) if self.ignore_padding else None
            gt_labels, gt_boxes = self.label_anchors(anchors, gt_instances, in_image)
            return self.losses(anchors, logits, deltas, gt_labels, gt_boxes)

    @torch.no_grad()
    def label_anchors(self, anchors, gt_instances, in_image=None):
        """Assigns every anchor of the batch a class, and a box to those of the foreground.

        Args:
            anchors: (R, 4).
            gt_instances: list of N Instances with `gt_boxes` and `gt_classes` (M,).
            in_image: (N, R) bool, false for anchors that take no part; None: all do.
        Returns:
            gt_labels (N, R) int64: class, K for background, -1 for ignored; gt_boxes (N, R, 4), undefined outside of the
            foreground.
        """
        labels, boxes = [], []
        for i, gt in enumerate(gt_instances):
            gt = gt[gt.gt_boxes.nonempty()]  # a box without area would be as near to every anchor, and has no deltas
            matched, kinds = self.anchor_matcher(pairwise_iou(gt.gt_boxes, Boxes(anchors)))
            # one box more, so that images without any pass
            labels_i = F.pad(gt.gt_classes, (0, 1))[matched]
            labels_i = torch.where(kinds == 1, labels_i, torch.where(kinds == 0, self.num_classes, -1))
            labels.append(labels_i if in_image is None else torch.where(in_image[i], labels_i, -1))
            boxes.append(F.pad(gt.gt_boxes.tensor, (0, 0, 0, 1))[matched])
        return torch.stack(labels), torch.stack(boxes)

    def losses(self, anchors, logits, deltas, gt_labels, gt_boxes):
        """
        Args:
            anchors: (R, 4).
            logits: (N, R, K) float32.
            deltas: (N, R, 4) float32.
            gt_labels, gt_boxes: see `label_anchors`.
        Returns:
            dict of "loss_cls" and "loss_box_reg".
        """
        is_fg = (gt_labels >= 0) & (gt_labels < self.num_classes)
        log_scalar("num_fg_per_image", is_fg.sum() / len(gt_labels))
        normalizer = self._normalizer(is_fg)
        image_idxs, anchor_idxs = is_fg.nonzero().unbind(dim=1)
        fg_anchors, fg_deltas = anchors[anchor_idxs], deltas[image_idxs, anchor_idxs]
        fg_gt_boxes = gt_boxes[image_idxs, anchor_idxs]
        fg_boxes = self.box2box_transform.apply_deltas(fg_deltas, fg_anchors)
        if self.box_reg_loss_type == "giou":
            loss_box_reg = giou_loss(fg_boxes, fg_gt_boxes).sum()
        else:
            fg_gt_deltas = self.box2box_transform.get_deltas(fg_anchors, fg_gt_boxes)
            loss_box_reg = smooth_l1_loss(fg_deltas, fg_gt_deltas, beta=self.smooth_l1_beta, reduction="sum")
        if self.cls_loss is None:
            loss_cls = sigmoid_focal_loss(logits, gt_labels, alpha=self.focal_loss_alpha, gamma=self.focal_loss_gamma)
        else:
            # not clamped: a box without overlap is of quality 0, as in mmdetection's RetinaNet
            quality = torch.zeros_like(gt_labels, dtype=torch.float32)
            quality[image_idxs, anchor_idxs] = matched_pairwise_iou(Boxes(fg_boxes.detach()), Boxes(fg_gt_boxes))
            loss_cls = self.cls_loss(logits, gt_labels, quality)
        return {"loss_cls": loss_cls / normalizer, "loss_box_reg": loss_box_reg / normalizer}

    def _normalizer(self, is_fg):
        if not self.uses_ema:
            return is_fg.sum(dim=1).clamp(min=1).sum()
        num_fg = is_fg.sum().clamp(min=1).float()
        normalizer = self.loss_normalizer * EMA_DECAY + num_fg * (1 - EMA_DECAY)
        self.loss_normalizer.copy_(normalizer)
        return normalizer

    def forward_inference(self, images, features, predictions):
        """Returns the detections of each image."""
        return [self.select(*pair) for pair in zip(self.predict_dense(images, predictions), images.image_sizes)]

    def predict_dense(self, images, predictions):
        """Returns a list of N `DensePrediction`; its parts may be edited before `select`."""
        anchors, logits, deltas = self._dense_predictions(predictions)
        num_anchors, anchors = [len(boxes) for boxes in anchors], torch.cat(anchors)
        return [
            DensePrediction(scores, self.box2box_transform.apply_deltas(deltas_i, anchors), None, num_anchors)
            for scores, deltas_i in zip(torch.cat(logits, dim=1).sigmoid(), torch.cat(deltas, dim=1))
        ]

    def label_dense(self, images, predictions, gt_instances):
        """Returns a list of N `DenseLabels`. Args: gt_instances, see `label_anchors`."""
        anchors, _, _ = self._dense_predictions(predictions)
        in_image = self._in_image(predictions[0], images.image_sizes) if self.ignore_padding else None
        labels = self.label_anchors(torch.cat(anchors), gt_instances, in_image)
        return [DenseLabels(*parts, None) for parts in zip(*labels)]

    def select(self, dense, image_size):
        """Chooses the detections of an image: candidates of each level by score, then NMS.

        Args:
            dense: DensePrediction.
            image_size: (height, width) of the network input without padding.
        """
        found = []
        for scores, boxes in zip(dense.scores.split(dense.num_points), dense.boxes.split(dense.num_points)):
            scores, idxs, classes = select_candidates(scores, self.test_score_thresh, self.test_topk_candidates)
            found.append((boxes[idxs], scores, classes))
        return select_detections(
            *(torch.cat(parts) for parts in zip(*found)),
            image_size,
            nms_thresh=self.test_nms_thresh,
            max_detections=self.max_detections_per_image,
        )

    def _dense_predictions(self, predictions):
        """Of each level, float32: anchors (Hi*Wi*A, 4), logits (N, Hi*Wi*A, K), deltas (N, Hi*Wi*A, 4)."""
        logits, deltas = predictions
        return (
            [boxes.tensor for boxes in self.anchor_generator(logits)],
            [permute_to_N_HWA_K(x, self.num_classes).float() for x in logits],
            [permute_to_N_HWA_K(x, 4).float() for x in deltas],
        )

    def _in_image(self, maps, image_sizes):
        """(N, R) bool: whether an anchor's cell belongs to the image by itself, without the padding of the batch."""
        device, levels = maps[0].device, []
        sizes = [[math.ceil(side / SIZE_DIVISOR) * SIZE_DIVISOR for side in size] for size in image_sizes]
        sizes = torch.tensor(sizes).to(device, non_blocking=True)
        for x, stride, num_anchors in zip(maps, self.anchor_generator.strides, self.anchor_generator.num_anchors):
            cells = -(-sizes // stride)
            rows, columns = (
                torch.arange(length, device=device) < cells[:, axis, None] for axis, length in enumerate(x.shape[-2:])
            )
            inside = (rows[:, :, None] & columns[:, None]).flatten(1)
            levels.append(inside.repeat_interleave(num_anchors, dim=1))
        return torch.cat(levels, dim=1)


class BestOfBoxMatcher(Matcher):
    """Detectron2's `Matcher`, but an anchor that is the best one of some boxes belongs to the last of them.

    There it belongs to the box that it overlaps most, which may be another. Source: mmdetection's `MaxIoUAssigner`.
    """

    def __call__(self, iou):
        """(M, R) -> box of each anchor (R,), its label (R,)."""
        matched, labels = super().__call__(iou)
        if self.allow_low_quality_matches and len(iou):
            is_best = iou == iou.amax(dim=1, keepdim=True)
            number = torch.arange(len(iou), device=iou.device)[:, None]
            last = torch.where(is_best, number, -1).amax(dim=0)
            matched = torch.where(last >= 0, last, matched)
        return matched, labels


def _check(head, anchor_generator, num_classes, box_reg_loss_type, loss_normalizer):
    found = (head.cls_score.out_channels, head.bbox_pred.out_channels)
    if {found} != {(count * num_classes, count * 4) for count in anchor_generator.num_anchors}:
        raise ValueError(
            f"the head predicts {found[0]} scores and {found[1]} deltas a cell, but num_classes is {num_classes} and the "
            f"anchor generator makes {anchor_generator.num_anchors} anchors a cell (one number a level); set "
            "head.num_classes and head.num_anchors to these"
        )
    if box_reg_loss_type not in ("smooth_l1", "giou"):
        raise ValueError(f"box_reg_loss_type={box_reg_loss_type!r} is not known; use 'smooth_l1' or 'giou'")
    if loss_normalizer not in ("ema", "batch"):
        raise ValueError(f"loss_normalizer={loss_normalizer!r} is not known; use 'ema' or 'batch'")
