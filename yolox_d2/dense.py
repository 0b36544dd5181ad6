"""What YOLOX says and is taught at every prediction, for studies that edit it before detections are chosen.

`YOLOX.forward_inference` finds the same detections in less time: it looks at the best class of each prediction only, and at the
boxes of candidates.

Shapes: see `dense_d2.modeling.dense_prediction`, and `yolox` for N and M.
"""

from dense_d2.modeling.dense_prediction import DenseLabels, DensePrediction

import torch
import torch.nn.functional as F

from .assignment import Predictions, pad_instances

__all__ = ["DenseAnswers", "ground_truth_of"]


class DenseAnswers:
    """The part of `YOLOX` for `dense_d2.evaluation.oracle`; objectness, times the selector if there is one, is centerness."""

    def predict_dense(self, images, predictions):
        """Returns a list of N `DensePrediction`; its parts may be edited before `select`."""
        priors, deltas, obj_logits, cls_logits, select_logits = self._dense_predictions(predictions[0], predictions)
        objectness = obj_logits.sigmoid()
        if select_logits is not None:
            objectness = objectness * select_logits.sigmoid()
        boxes = self.box_coder.apply_deltas(deltas, priors)
        num_points = [height * width * self.head.num_anchors for height, width, _ in priors.shapes]
        return [DensePrediction(*parts, num_points) for parts in zip(cls_logits.sigmoid(), boxes, objectness)]

    def label_dense(self, images, predictions, gt_instances):
        """Returns a list of N `DenseLabels`; with a selector, those of its one-to-one assignment."""
        priors, deltas, obj_logits, cls_logits, _ = self._dense_predictions(predictions[0], predictions)
        gt = ground_truth_of(images, gt_instances)
        assigner = self.assigner if self.select_assigner is None else self.select_assigner
        pred = Predictions(self.box_coder.apply_deltas(deltas, priors), cls_logits, obj_logits)
        matched = assigner(priors, pred, gt).matched_idxs
        # one entry more, for what is no foreground; this also lets batches without any box pass
        idxs = torch.where(matched >= 0, matched, gt.classes.shape[1])
        classes = F.pad(gt.classes, (0, 1), value=self.num_classes).gather(1, idxs)
        boxes = F.pad(gt.boxes, (0, 0, 0, 1)).gather(1, idxs[..., None].expand(-1, -1, 4))
        return [DenseLabels(*parts) for parts in zip(classes, boxes, (matched >= 0).float())]

    def select(self, dense, image_size):
        """Chooses the detections of an image.

        Args:
            dense: DensePrediction.
            image_size: (height, width) of the network input without padding.
        """
        scores, classes = dense.best_class()
        idxs, scores = self._candidates(scores)
        return self._detections(dense.boxes[idxs], scores, classes[idxs], image_size)


def ground_truth_of(images, gt_instances):
    """`pad_instances`, with boxes in pixels of `images`, which may be of another size than the Instances."""
    padded = pad_instances(gt_instances)
    scale = [(w / gt.image_size[1], h / gt.image_size[0]) for (h, w), gt in zip(images.image_sizes, gt_instances)]
    scale = torch.tensor(scale).to(padded.boxes.device, non_blocking=True)  # else the host waits for the network
    return padded._replace(boxes=padded.boxes * scale.repeat(1, 2)[:, None])
