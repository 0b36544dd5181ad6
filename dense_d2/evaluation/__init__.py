"""Evaluation: COCO box AP (fastest installed library), streaming AP, Detectron2's speed, results as JSON."""

from .coco import CocoNumbers, FastCOCOEvaluator, available_backends, coco_numbers
from .inference import evaluate, float_results, write_results
from .latency import TimedModel
from .stream_clock import match_outputs, simulate_stream, stream_stats
from .streaming import StreamingCOCOEvaluator, streaming_numbers
from .timing import PureComputeTime, describe_machine

__all__ = [
    "CocoNumbers",
    "FastCOCOEvaluator",
    "PureComputeTime",
    "StreamingCOCOEvaluator",
    "TimedModel",
    "available_backends",
    "coco_numbers",
    "describe_machine",
    "evaluate",
    "float_results",
    "match_outputs",
    "simulate_stream",
    "stream_stats",
    "streaming_numbers",
    "write_results",
]
