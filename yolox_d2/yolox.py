"""YOLOX, the meta-architecture: decoupled head without anchors, SimOTA, and losses for box, objectness and class.

Source: YOLOX (Ge et al., 2021), section 2; where the released code differs, that code: it has the published AP.

Shapes: N images, A anchors a cell (1 but for the first steps of Table 2), R = sum of H*W*A predictions over all levels, K
classes, M the most ground-truth boxes of an image, P positives of the batch. Boxes are XYXY in pixels of the network input.
"""

import math

from dense_d2.modeling.dense_detector import DenseDetector, feature_shapes, log_scalar
from dense_d2.modeling.losses import iou_loss

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import batched_nms, nms
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.structures import Boxes, ImageList, Instances

from .assignment import IGNORED, CellAssigner, Predictions, make_priors
from .box_coder import GridBoxCoder
from .dense import DenseAnswers, ground_truth_of
from .head import YOLOXHead
from .input_size import check_input_size, unrounded_size
from .released import from_author
from .simota import SimOTA

__all__ = ["YOLOX"]

MAX_CACHED_SIZES = 32


@META_ARCH_REGISTRY.register()
class YOLOX(DenseAnswers, DenseDetector):
    """Detector of the YOLOX family.

    Images of a batch are padded to one square. In training, a sample may say with `input_size` (height, width) what size
    its batch is to have: the padded batch is then resized on the device, boxes with it.
    """

    class_layers = ("head.cls_preds", "head.preds")  # the latter of CoupledHead, its boxes and objectness too
    released_formats = (from_author,)

    @configurable
    def __init__(
        self,
        *,
        backbone,
        head,
        num_classes,
        assigner,
        box_coder,
        anchor_sizes=None,
        head_in_features=("p3", "p4", "p5"),
        use_l1=False,
        box_loss_weight=5.0,
        select_assigner=None,
        select_loss_weight=1.0,
        pad_value=114,
        clip_boxes=False,
        class_agnostic_nms=False,
        test_score_thresh=0.01,
        test_nms_thresh=0.65,
        test_topk_candidates=10000,
        max_detections_per_image=1000,
        **kwargs,
    ):
        """
        Args:
            backbone, num_classes, head_in_features, pad_value, clip_boxes, max_detections_per_image, kwargs: see
                `DenseDetector`. COCO's evaluation looks at 100 detections of each class, hence more than 100 here.
            head: YOLOXHead or CoupledHead.
            assigner: see `SimOTA`.
            box_coder: see `GridBoxCoder`.
            anchor_sizes: for every level the (width, height) pixels of its anchors; None: one prediction a cell.
            use_l1: add the L1 loss, as in the last epochs of training (see `SwitchOn`).
            box_loss_weight: of the IoU loss.
            select_assigner: see `OneToOneAssigner`; for a head with a selector. Such a detector needs no NMS.
            select_loss_weight: of the selector's loss.
            class_agnostic_nms: let a detection suppress those of other classes too.
            test_score_thresh: detections need at least this objectness times class probability. A prediction gives one
                detection, of its best class.
            test_nms_thresh, test_topk_candidates: see `DenseDetector`.
        """
        super().__init__(
            backbone=backbone,
            head=head,
            head_in_features=head_in_features,
            num_classes=num_classes,
            pad_value=pad_value,
            clip_boxes=clip_boxes,
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
        anchors = {1} if anchor_sizes is None else {len(sizes) for sizes in anchor_sizes}
        if anchors != {head.num_anchors}:
            raise ValueError(f"head.num_anchors is {head.num_anchors}, but anchor_sizes lists {anchors} a level")
        if isinstance(assigner, CellAssigner):
            assigner.check_anchors(head.num_anchors)
        if (select_assigner is None) != (head.selectors is None):
            raise ValueError("a selector in the head and a select_assigner need each other; give both or none")
        self.assigner, self.select_assigner = assigner, select_assigner
        self.box_coder = box_coder
        self.anchor_sizes = anchor_sizes and [[tuple(size) for size in level] for level in anchor_sizes]
        self.use_l1 = use_l1
        self.box_loss_weight, self.select_loss_weight = box_loss_weight, select_loss_weight
        self.class_agnostic_nms = class_agnostic_nms
        shapes = feature_shapes(backbone, head_in_features)
        if [shape.channels for shape in shapes] != head.in_channels:
            found = {name: shape.channels for name, shape in backbone.output_shape().items()}
            raise ValueError(
                f"head_in_features is {list(head_in_features)} of {found}; the head takes maps of {head.in_channels} channels"
            )
        self.strides = [shape.stride for shape in shapes]
        self._priors = {}

    @classmethod
    def from_config(cls, cfg):
        yolox = cfg.MODEL.YOLOX
        backbone = build_backbone(cfg)
        shapes = feature_shapes(backbone, yolox.IN_FEATURES)
        return {
            "backbone": backbone,
            "head": YOLOXHead(
                in_channels=[shape.channels for shape in shapes],
                channels=4 * int(64 * yolox.WIDTH),
                num_classes=yolox.NUM_CLASSES,
                depthwise=yolox.DEPTHWISE,
                activation=yolox.ACTIVATION,
            ),
            "num_classes": yolox.NUM_CLASSES,
            "assigner": SimOTA(radius=yolox.CENTER_RADIUS),
            "box_coder": GridBoxCoder(),
            "head_in_features": yolox.IN_FEATURES,
            "use_l1": yolox.USE_L1,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "input_format": cfg.INPUT.FORMAT,
            "test_score_thresh": yolox.SCORE_THRESH_TEST,
            "test_nms_thresh": yolox.NMS_THRESH_TEST,
            "max_detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
        }

    def preprocess_image(self, batched_inputs):
        """Pads to a square whose side is a multiple of the largest stride, resizes (training only) and normalises.

        In inference, `image_sizes` of the result are those of the original image times the factor it was resized by. They
        may be no whole numbers: a size cut down to whole pixels would stretch the boxes by up to half a percent.

        Raises:
            UserError: `input_size` is no multiple of the largest stride.
        """
        divisor = max(self.strides)
        side = max(max(x["image"].shape[1:]) for x in batched_inputs)
        side = math.ceil(side / divisor) * divisor
        images, sizes = [], []
        for sample in batched_inputs:
            image = sample["image"].to(self.device)
            height, width = image.shape[1:]
            images.append(F.pad(image, (0, side - width, 0, side - height), value=self.pad_value))
            sizes.append((height, width) if self.training else unrounded_size(sample))
        tensor = torch.stack(images).float()
        size = batched_inputs[0].get("input_size") if self.training else None
        if size is not None and tuple(size) != (side, side):
            check_input_size(size, divisor)
            tensor = F.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)
            sizes = [(height * size[0] / side, width * size[1] / side) for height, width in sizes]
        tensor = (tensor - self.pixel_mean) / self.pixel_std
        return ImageList(self.to_memory_format(tensor), sizes)

    def forward_training(self, images, features, predictions, gt_instances):
        """Returns the losses; decoding, assignment and losses run in float32."""
        priors, deltas, obj_logits, cls_logits, select_logits = self._dense_predictions(features, predictions)
        with torch.autocast(device_type=deltas.device.type, enabled=False):
            gt = ground_truth_of(images, gt_instances)
            boxes = self.box_coder.apply_deltas(deltas.detach(), priors)
            pred = Predictions(boxes, cls_logits.detach(), obj_logits.detach())
            losses = self.losses(priors, deltas, obj_logits, cls_logits, gt, self.assigner(priors, pred, gt))
            if select_logits is not None:
                matched_idxs = self.select_assigner(priors, pred, gt).matched_idxs
                losses["loss_select"] = self._select_loss(select_logits, pred, gt.classes, matched_idxs)
        return losses

    def losses(self, priors, deltas, obj_logits, cls_logits, gt, assignment):
        """
        Args:
            priors: Priors of R predictions.
            deltas: (N, R, 4); obj_logits (N, R); cls_logits (N, R, K); float32.
            gt: GroundTruth.
            assignment: Assignment.
        Returns:
            dict of losses, each divided by the number of positives of this process, as released: not of all.
        """
        matched_idxs, ious = assignment
        image_idxs, idxs = (matched_idxs >= 0).nonzero(as_tuple=True)  # makes the host wait, once a step
        gt_idxs = matched_idxs[image_idxs, idxs]
        target_boxes, target_classes = gt.boxes[image_idxs, gt_idxs], gt.classes[image_idxs, gt_idxs]
        # decoded are the positives only: where others overflow, gradients of 0 would be no numbers
        pos_deltas, pos_priors = deltas[image_idxs, idxs], priors.at(idxs)
        num_pos = max(len(idxs), 1)
        log_scalar("num_pos_per_image", len(idxs) / len(deltas))

        cls_targets = torch.zeros_like(cls_logits[image_idxs, idxs])
        cls_targets.scatter_(1, target_classes[:, None], ious[image_idxs, idxs, None])
        loss_cls = F.binary_cross_entropy_with_logits(cls_logits[image_idxs, idxs], cls_targets, reduction="sum")
        loss_obj = F.binary_cross_entropy_with_logits(
            obj_logits, (matched_idxs >= 0).float(), weight=(matched_idxs != IGNORED).float(), reduction="sum"
        )
        loss_box = iou_loss(self.box_coder.apply_deltas(pos_deltas, pos_priors), target_boxes).sum()
        losses = {
            "loss_cls": loss_cls / num_pos,
            "loss_box_reg": self.box_loss_weight * loss_box / num_pos,
            "loss_obj": loss_obj / num_pos,
        }
        if self.use_l1:
            targets = self.box_coder.get_deltas(target_boxes, pos_priors)
            predicted = self.box_coder.to_cell_units(pos_deltas)
            losses["loss_l1"] = F.l1_loss(predicted, targets, reduction="sum") / num_pos
        return losses

    def _select_loss(self, select_logits, pred, gt_classes, matched_idxs):
        """Binary cross entropy of class * objectness * selector, 1 for the one prediction of each box.

        Only the selector learns from it, for `pred` is detached: the one-to-many losses train the rest.
        """
        is_chosen = matched_idxs >= 0
        classes = gt_classes.gather(1, matched_idxs.clamp(min=0)) if gt_classes.shape[1] else matched_idxs.clamp(min=0)
        best = pred.cls_logits.max(dim=2).values
        cls_logits = torch.where(is_chosen, pred.cls_logits.gather(2, classes[..., None]).squeeze(2), best)
        score = (cls_logits.sigmoid() * pred.obj_logits.sigmoid() * select_logits.sigmoid()).clamp(1e-6, 1 - 1e-6)
        loss = F.binary_cross_entropy(score, is_chosen.float(), reduction="sum")
        return self.select_loss_weight * loss / is_chosen.sum().clamp(min=1)

    def forward_inference(self, images, features, predictions):
        """Returns the detections of each image: one a prediction, of its best class, then NMS."""
        priors, deltas, obj_logits, cls_logits, select_logits = self._dense_predictions(features, predictions)
        best_logits, classes = cls_logits.max(dim=2)
        scores = obj_logits.sigmoid() * best_logits.sigmoid()
        if select_logits is not None:
            scores = scores * select_logits.sigmoid()
        results = []
        for scores_i, classes_i, deltas_i, image_size in zip(scores, classes, deltas, images.image_sizes):
            idxs, scores_i = self._candidates(scores_i)
            boxes = self.box_coder.apply_deltas(deltas_i[idxs], priors.at(idxs))
            results.append(self._detections(boxes, scores_i, classes_i[idxs], image_size))
        return results

    def _candidates(self, scores):
        """Indices and scores of the predictions worth a look, best first. Args: scores (R,)."""
        idxs = (scores >= self.test_score_thresh).nonzero().squeeze(1)
        scores, order = scores[idxs].topk(min(self.test_topk_candidates, len(idxs)))
        return idxs[order], scores

    def _detections(self, boxes, scores, classes, image_size):
        keep = self._suppress(boxes, scores, classes)[: self.max_detections_per_image]
        return Instances(image_size, pred_boxes=Boxes(boxes[keep]), scores=scores[keep], pred_classes=classes[keep])

    def _suppress(self, boxes, scores, classes):
        """Indices of the detections that stay, best first."""
        if self.select_assigner is not None:
            return torch.arange(len(boxes), device=boxes.device)
        if self.class_agnostic_nms:
            return nms(boxes, scores, self.test_nms_thresh)
        return batched_nms(boxes, scores, classes, self.test_nms_thresh)

    def _dense_predictions(self, features, predictions):
        """Priors, deltas (N, R, 4), objectness (N, R), classes (N, R, K) and selector (N, R) or None; float32 logits."""

        def flat(levels, numbers):
            return torch.cat([permute_to_N_HWA_K(level, numbers) for level in levels], dim=1).float()

        deltas, obj_logits, cls_logits, select_logits = predictions
        return (
            self._cached_priors(tuple(tuple(feature.shape[-2:]) for feature in features), deltas[0].device),
            flat(deltas, 4),
            flat(obj_logits, 1).squeeze(2),
            flat(cls_logits, self.num_classes),
            None if select_logits is None else flat(select_logits, 1).squeeze(2),
        )

    def _cached_priors(self, feature_sizes, device):
        key = feature_sizes, device
        if key not in self._priors:
            if len(self._priors) >= MAX_CACHED_SIZES:
                self._priors.clear()
            with torch.inference_mode(False):  # training may use them later
                self._priors[key] = make_priors(feature_sizes, self.strides, self.anchor_sizes, device)
        return self._priors[key]
