"""Oracle study: what AP would be if one answer of the network were right at the foreground locations.

Source: VarifocalNet (Zhang et al., CVPR 2021), Table 1; the procedure is the author's, in issues 3, 13 and 15 of the released
code. Foreground is what the detector's own assigner says at the test scale; background stays as predicted; then the usual
choice of detections. The author wrote logits, where a score of 1 is infinite; here probabilities are edited.

Shapes: R locations of one image over all levels, K classes, P of the locations are foreground.
"""

import logging
from collections import defaultdict

import torch
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes
from detectron2.structures.boxes import matched_pairwise_iou
from torch import nn

from ..errors import UserError
from .coco import FastCOCOEvaluator, coco_numbers
from .streaming import offline_results

__all__ = ["COLUMNS", "EDITS", "OracleEvaluator", "OracleStudy", "edited_predictions"]

logger = logging.getLogger(__name__)

COLUMNS = ("AP", "AP50", "AP75", "APs", "APm", "APl")

PROTOCOL = ("predict_dense", "label_dense", "select")


def none(dense, labels):
    return dense


def gt_ctr(dense, labels):
    """Centerness is what the branch was taught: with objectness, 1."""
    fg = _foreground(dense, labels)
    return dense._replace(centerness=_written(dense.centerness, fg, labels.centerness[fg]))


def gt_ctr_iou(dense, labels):
    """Centerness is the IoU of the predicted box with its ground truth."""
    fg = _foreground(dense, labels)
    return dense._replace(centerness=_written(dense.centerness, fg, _iou(dense, labels, fg)))


def gt_bbox(dense, labels):
    """The box is its ground truth."""
    fg = _foreground(dense, labels)
    return dense._replace(boxes=_written(dense.boxes, fg, labels.boxes[fg]))


def gt_cls(dense, labels):
    """The score of the true class is 1; the other classes keep theirs."""
    fg = _foreground(dense, labels)
    return dense._replace(scores=_written(dense.scores, (fg, labels.classes[fg]), 1.0))


def gt_cls_iou(dense, labels):
    """The score of the true class is the IoU of the predicted box with its ground truth; the other classes keep theirs."""
    fg = _foreground(dense, labels)
    return dense._replace(scores=_written(dense.scores, (fg, labels.classes[fg]), _iou(dense, labels, fg)))


EDITS = {edit.__name__: edit for edit in (none, gt_ctr, gt_ctr_iou, gt_bbox, gt_cls, gt_cls_iou)}
"""Name -> function (DensePrediction, DenseLabels) -> DensePrediction; the arguments are left as they are."""

CENTERNESS_EDITS = ("gt_ctr", "gt_ctr_iou")


def edited_predictions(dense, labels):
    """Yields (name of the row, DensePrediction) of every edit; with a centerness branch also "... w/ctr", where scores are
    multiplied by it as the detector does, while the row without the suffix leaves the branch out."""
    without = dense._replace(centerness=None)
    for name, edit in EDITS.items():
        if name not in CENTERNESS_EDITS:
            yield name, edit(without, labels)
        if dense.centerness is not None:
            yield f"{name} w/ctr", edit(dense, labels)


class OracleStudy(nn.Module):
    """A detector that answers once for every edit, after one forward pass."""

    def __init__(self, detector):
        """
        Args:
            detector: DenseDetector with `predict_dense`, `label_dense` and `select`; see `dense_prediction`.
        """
        super().__init__()
        if not _has_protocol(detector):
            able = sorted(name for name, meta_arch in META_ARCH_REGISTRY if _has_protocol(meta_arch))
            raise UserError(
                f"{type(detector).__name__} lacks {', '.join(PROTOCOL)}, by which its predictions are edited; those "
                f"that have them are {', '.join(able)}"
            )
        self.detector = detector

    @torch.no_grad()
    def forward(self, batched_inputs):
        """
        Args:
            batched_inputs: as in training: with `instances`, at the test scale.
        Returns:
            for each image {name of the row: Instances in pixels of the original image}.
        """
        detector = self.detector
        images, _, predictions = detector.predict(batched_inputs)
        gt_instances = [sample["instances"].to(detector.device) for sample in batched_inputs]
        dense = detector.predict_dense(images, predictions)
        with torch.autocast(detector.device.type, enabled=False):
            labels = detector.label_dense(images, predictions, gt_instances)
        return [
            {
                row: detector.to_original_image(detector.select(edited, image_size), sample)
                for row, edited in edited_predictions(*pair)
            }
            for *pair, image_size, sample in zip(dense, labels, images.image_sizes, batched_inputs)
        ]


class OracleEvaluator(FastCOCOEvaluator):
    """Box AP of each row of an `OracleStudy`; in one process."""

    def __init__(self, dataset_name, output_dir=None, backend="auto"):
        """
        Args:
            dataset_name, backend: see `FastCOCOEvaluator`.
            output_dir: used only for a dataset that has no COCO file: one is written there.
        """
        super().__init__(dataset_name, output_dir, backend, distributed=False)
        if not self._do_evaluation:
            raise UserError(f"{dataset_name} has no annotations, and an oracle needs them; set dataset.test.name")

    def reset(self):
        self._rows = defaultdict(list)

    def process(self, inputs, outputs):
        for sample, rows in zip(inputs, outputs):
            for row, result in rows.items():
                # tensors, not the dictionaries of COCO's format, which take ten times the memory
                self._rows[row].append((sample["image_id"], result.to(self._cpu_device)))

    def evaluate(self):
        """Returns {name of the row: {"AP": percent, ...}}."""
        numbers = {}
        for row, results in self._rows.items():
            numbers[row] = self._numbers(results)
            logger.info(f"{row}: box AP {numbers[row]['AP']:.2f}")
        return numbers

    def _numbers(self, results):
        detections = [d for image_id, result in results for d in instances_to_coco_json(result, image_id)]
        self._restore_category_ids(detections)
        numbers = offline_results(coco_numbers(self._coco_api.dataset, detections, self._backend))
        return {name: numbers[name] for name in COLUMNS}


def _has_protocol(detector):
    return all(hasattr(detector, name) for name in PROTOCOL)


def _foreground(dense, labels):
    """(P,) indices into R."""
    return ((labels.classes >= 0) & (labels.classes < dense.scores.shape[1])).nonzero().squeeze(1)


def _iou(dense, labels, fg):
    """(P,) IoU of the predicted boxes at `fg` with their ground truth."""
    return matched_pairwise_iou(Boxes(dense.boxes[fg]), Boxes(labels.boxes[fg]))


def _written(tensor, where, values):
    """A copy of `tensor` with `values` at the indices `where`."""
    tensor = tensor.clone()
    tensor[where] = values
    return tensor
