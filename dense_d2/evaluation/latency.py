"""Latencies of a detector for streaming evaluation: measured on every frame, or given as a number or as samples.

Units: seconds.
"""

import json
import os
import time
from numbers import Real
from typing import Any, Dict, Mapping, Optional, Sequence, Tuple, Union

import numpy as np
import torch
from torch import nn

from ..errors import UserError

__all__ = ["TimedModel", "latency_of_images", "read_latency"]


class TimedModel(nn.Module):
    """A detector that notes the time of each frame as "seconds" in its outputs; for evaluation, batch 1.

    The time includes the copy to the device, normalisation, padding, network, decoding, NMS, rescaling of the boxes and
    the copy of the detections back to the CPU, between two synchronisations of the device. It leaves out what
    Detectron2's loader does beforehand: reading the file, and resizing it, which a stream would also have to wait for;
    `extra_seconds` adds a figure for that.
    """

    def __init__(self, model: nn.Module, warmup: int = 10, extra_seconds: float = 0.0):
        """
        Args:
            model: takes and returns Detectron2's lists of dicts.
            warmup: how often the first frame is run untimed before it counts.
            extra_seconds: added to every measured time.
        """
        super().__init__()
        self.model, self.warmup, self.extra_seconds = model, warmup, extra_seconds

    def forward(self, batched_inputs):
        if len(batched_inputs) != 1:
            raise UserError(
                f"A batch has {len(batched_inputs)} frames; a stream gives one at a time: test with batch 1"
            )
        while self.warmup > 0:
            self.warmup -= 1
            self.model(batched_inputs)
        self._synchronize()
        start = time.perf_counter()
        (output,) = self.model(batched_inputs)
        output = {**output, "instances": output["instances"].to("cpu")}
        self._synchronize()
        return [{**output, "seconds": time.perf_counter() - start + self.extra_seconds}]

    def _synchronize(self):
        device = next(self.model.parameters(), torch.empty(0)).device
        if device.type == "cuda":
            torch.cuda.synchronize(device)


def read_latency(latency: Union[None, float, Sequence[float], str]) -> Optional[np.ndarray]:
    """The samples of a latency as the user gives it: a number, a list, or the path of a JSON file that holds a list or
    {"samples": list}. None stays None."""
    if latency is None:
        return None
    source = "latency"
    if isinstance(latency, (str, os.PathLike)):
        source = f"The file {latency}"
        with open(latency) as f:
            try:
                latency = json.load(f)
            except ValueError as error:
                raise UserError(f"{source} is no JSON ({error})") from error
        latency = latency.get("samples") if isinstance(latency, dict) else latency
    values = [latency] if isinstance(latency, Real) else latency
    if not isinstance(values, Sequence) or not values or not all(type(x) in (int, float) for x in values):
        raise UserError(f'{source} must be a number of seconds or a list of them, in a file also {{"samples": list}}')
    samples = np.asarray(values, dtype=float)
    if not np.isfinite(samples).all() or (samples < 0).any():
        raise UserError(f"{source} has a value that is negative or not finite; latencies are seconds, 0 or more")
    return samples


def latency_of_images(
    image_ids: Sequence[Any],
    latency: Union[np.ndarray, Mapping[Any, Optional[float]]],
    seed: int = 0,
    perf_factor: float = 1.0,
) -> Tuple[Dict[Any, float], float]:
    """The latency of the run on each image, and the mean latency.

    Args:
        latency: samples, one of which is drawn for each image; or the measured seconds of each image.
        perf_factor: divides the latencies.
    """
    if not perf_factor > 0:
        raise UserError(f"perf_factor is {perf_factor}; it divides the latencies and is above 0")
    if isinstance(latency, Mapping):
        if any(latency[i] is None for i in image_ids):
            raise UserError(
                "The latencies were not measured: evaluate TimedModel(model), or give the evaluator `latency`"
            )
        values = np.asarray([latency[i] for i in image_ids], dtype=float)
        mean = values.mean()
    else:
        values = np.random.default_rng(seed).choice(latency, size=len(image_ids))
        mean = latency.mean()
    return dict(zip(image_ids, (values / perf_factor).tolist())), float(mean / perf_factor)
