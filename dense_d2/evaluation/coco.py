"""COCO box AP through the fastest matching library that is installed.

The protocol, the log lines and the shape of the results are Detectron2's `COCOEvaluator`'s; only the matching differs.
All libraries give the same 12 numbers (tests/dense_d2/test_coco_evaluation.py), so the choice is about time and memory.
Source: the COCO detection evaluation (pycocotools), Detectron2's evaluation/coco_evaluation.py.

Letters: T IoU thresholds, R recall points, K classes, A area ranges, L detection limits (1, 10, 100).
"""

import contextlib
import importlib
import io
import itertools
import json
import logging
import os
from typing import Any, Callable, Dict, List, NamedTuple, Optional, Sequence

import numpy as np
from detectron2.evaluation import COCOEvaluator

from ..datasets import check_name

__all__ = ["CocoNumbers", "FastCOCOEvaluator", "available_backends", "coco_numbers"]

logger = logging.getLogger(__name__)

_STATS = (
    ("Average Precision", "AP", "0.50:0.95", "all", 100),
    ("Average Precision", "AP", "0.50", "all", 100),
    ("Average Precision", "AP", "0.75", "all", 100),
    ("Average Precision", "AP", "0.50:0.95", "small", 100),
    ("Average Precision", "AP", "0.50:0.95", "medium", 100),
    ("Average Precision", "AP", "0.50:0.95", "large", 100),
    ("Average Recall", "AR", "0.50:0.95", "all", 1),
    ("Average Recall", "AR", "0.50:0.95", "all", 10),
    ("Average Recall", "AR", "0.50:0.95", "all", 100),
    ("Average Recall", "AR", "0.50:0.95", "small", 100),
    ("Average Recall", "AR", "0.50:0.95", "medium", 100),
    ("Average Recall", "AR", "0.50:0.95", "large", 100),
)


class CocoNumbers(NamedTuple):
    """What a matching library returns; it has the two attributes of a COCOeval that Detectron2 reads."""

    stats: np.ndarray  # (12,) in [0, 1]; -1 where there is nothing to measure
    eval: Dict[str, np.ndarray]  # "precision": (T, R, K, A, L); -1 for classes without ground truth

    def lines(self) -> str:
        """The 12 lines that pycocotools prints."""
        return "\n".join(
            f" {title:<18} ({short}) @[ IoU={iou:<9} | area={area:>6s} | maxDets={limit:>3d} ] = {value:0.3f}"
            for (title, short, iou, area, limit), value in zip(_STATS, self.stats)
        )


class FastCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator for boxes, with per-class AP for any number of classes.

    A run without a single detection has AP 0 (NaN only for what has no ground truth), as the COCO protocol says;
    Detectron2 gives NaN for everything.
    """

    def __init__(
        self, dataset_name: str, output_dir: Optional[str] = None, backend: str = "auto", distributed: bool = True
    ):
        """
        Args:
            dataset_name: registered; its metadata has `json_file`, or it can be converted to COCO format.
            output_dir: where coco_instances_results.json and instances_predictions.pth go; None for nowhere.
            backend: "auto" or one of `available_backends()`.
            distributed: gathers the predictions of all ranks; otherwise only those of this process are evaluated.
        Raises:
            DatasetError: the dataset is not registered, or its files are missing.
        """
        check_name(dataset_name)
        self._backend = _pick_backend(backend)
        # tasks, use_fast_impl: v0.6's defaults need compiled operators
        super().__init__(
            dataset_name=dataset_name,
            tasks=("bbox",),
            distributed=distributed,
            output_dir=output_dir,
            use_fast_impl=False,
        )

    def _eval_predictions(self, predictions, img_ids=None):
        detections = list(itertools.chain.from_iterable(p["instances"] for p in predictions))
        self._restore_category_ids(detections)
        if self._output_dir:
            path = os.path.join(self._output_dir, "coco_instances_results.json")
            logger.info(f"Saving results to {path}")
            with open(path, "w") as f:
                json.dump(detections, f)
        if not self._do_evaluation:
            logger.info("Annotations are not available for evaluation.")
            return

        logger.info(f"Evaluating {len(detections)} detections with {_describe(self._backend)} ...")
        if not detections:
            logger.warning(
                f"No detections at all in {len(predictions)} images: AP is 0 for every class that has boxes. "
                "Early in training that is normal; otherwise look at the losses and at model.test_score_thresh."
            )
        numbers = coco_numbers(self._coco_api.dataset, detections, self._backend, img_ids)
        logger.info("COCO numbers for bbox:\n" + numbers.lines())

        names = self._metadata.get("thing_classes")
        results = self._derive_coco_results(numbers, "bbox", class_names=names)
        if names and len(names) == 1:  # Detectron2 leaves it out
            results["AP-" + names[0]] = results["AP"]
        self._results["bbox"] = results

    def _restore_category_ids(self, detections):
        """Contiguous class numbers become the file's category ids, in place."""
        contiguous_id = getattr(self._metadata, "thing_dataset_id_to_contiguous_id", None)
        if contiguous_id is None:
            return
        category_id = {v: k for k, v in contiguous_id.items()}
        for detection in detections:
            index = detection["category_id"]
            if index not in category_id:
                raise ValueError(
                    f"The model predicted class {index} but the dataset '{self._metadata.name}' has classes 0 to "
                    f"{len(category_id) - 1}; set model.num_classes={len(category_id)}"
                )
            detection["category_id"] = category_id[index]


def available_backends() -> List[str]:
    """Names of the installed matching libraries, fastest first."""
    return [name for name in _BACKENDS if _importable(name)]


def coco_numbers(
    dataset: Dict[str, Any],
    detections: Sequence[Dict[str, Any]],
    backend: str = "auto",
    img_ids: Optional[Sequence[Any]] = None,
) -> CocoNumbers:
    """The 12 COCO numbers and the precision array of a set of box detections.

    Args:
        dataset: the content of a COCO annotation file, left as it is.
        detections: dicts with `image_id`, `category_id`, `bbox` (x, y, w, h in pixels) and `score`; may be empty.
        backend: "auto" or one of `available_backends()`.
        img_ids: the images to evaluate; None for all of the file.
    """
    # The order of the images decides between equal scores, so numbering keeps it. Not every library takes strings.
    number = {image_id: n for n, image_id in enumerate(sorted(x["id"] for x in dataset["images"]), start=1)}
    unknown = sorted({d["image_id"] for d in detections} - number.keys())
    if unknown:
        raise ValueError(
            f"{len(unknown)} images with detections are not in the annotation file (first: {unknown[0]}); evaluate on "
            "the dataset that the annotations belong to"
        )
    images = [{"id": n, "height": 0, "width": 0} for n in number.values()]
    categories = [{"id": x["id"], "name": str(x.get("name", x["id"]))} for x in dataset["categories"]]
    parts = [
        {"images": images, "categories": categories, "annotations": annotations}
        for annotations in (_number(dataset["annotations"], number), _number(detections, number, are_detections=True))
    ]
    chosen = None if img_ids is None else sorted(number[i] for i in img_ids)
    with contextlib.redirect_stdout(io.StringIO()):  # they print their progress
        return _BACKENDS[_pick_backend(backend)](*parts, chosen)


def _number(annotations, number, are_detections=False):
    """Copies what matching needs. Ids start at 1, since pycocotools takes a match with id 0 for no match; a missing
    `area` becomes the box's."""
    copies = []
    for source in annotations:
        if source.get("image_id") not in number or not _is_box(source.get("bbox")):  # the protocol cannot see it
            continue
        box = [float(v) for v in source["bbox"]]
        area = box[2] * box[3]
        copy = {
            "id": len(copies) + 1,
            "image_id": number[source["image_id"]],
            "category_id": source["category_id"],
            "bbox": box,
            "area": area if are_detections else float(source.get("area", area)),
            "iscrowd": int(source.get("iscrowd", 0)),
        }
        if are_detections:
            copy["score"] = source["score"]
        copies.append(copy)
    return copies


def _is_box(value):
    return isinstance(value, (list, tuple)) and len(value) == 4 and all(isinstance(v, (int, float)) for v in value)


def _run(module, evaluator, ground_truth, detections, img_ids) -> CocoNumbers:
    gt, dt = module.COCO(), module.COCO()
    gt.dataset, dt.dataset = ground_truth, detections  # no temporary file
    gt.createIndex()
    dt.createIndex()
    coco_eval = evaluator(gt, dt, iouType="bbox")
    if img_ids is not None:
        coco_eval.params.imgIds = img_ids
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    precision = np.asarray(coco_eval.eval["precision"])
    return CocoNumbers(np.asarray(coco_eval.stats[:12], dtype=float), {"precision": precision})


def _run_pycocotools(*args) -> CocoNumbers:
    coco, cocoeval = (importlib.import_module(f"pycocotools.{name}") for name in ("coco", "cocoeval"))
    return _run(coco, cocoeval.COCOeval, *args)


def _run_faster_coco_eval(*args) -> CocoNumbers:
    module = importlib.import_module("faster_coco_eval")
    return _run(module, module.COCOeval_faster, *args)


def _run_hotcoco(*args) -> CocoNumbers:
    module = importlib.import_module("hotcoco")
    return _run(module, module.COCOeval, *args)


_BACKENDS: Dict[str, Callable[..., CocoNumbers]] = {  # fastest first
    "hotcoco": _run_hotcoco,
    "faster_coco_eval": _run_faster_coco_eval,
    "pycocotools": _run_pycocotools,
}


def _importable(name: str) -> bool:
    try:
        importlib.import_module(name)
    except ImportError:
        return False
    return True


def _pick_backend(name: str) -> str:
    available = available_backends()
    if name == "auto":
        return available[0]
    if name not in available:
        raise ValueError(f"COCO backend '{name}' is not installed; installed are {available}")
    return name


def _describe(backend: str) -> str:
    version = getattr(importlib.import_module(backend), "__version__", "")
    return f"{backend} {version}".strip() + " (COCO protocol)"
