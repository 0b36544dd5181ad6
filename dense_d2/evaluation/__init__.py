"""Evaluation: COCO box AP through the fastest installed library, speed by Detectron2's definition, results as JSON."""

from .coco import CocoNumbers, FastCOCOEvaluator, available_backends, coco_numbers
from .inference import evaluate, float_results, write_results
from .timing import PureComputeTime, describe_machine

__all__ = [
    "CocoNumbers",
    "FastCOCOEvaluator",
    "PureComputeTime",
    "available_backends",
    "coco_numbers",
    "describe_machine",
    "evaluate",
    "float_results",
    "write_results",
]
