"""Evaluation of a detector on a data set: Detectron2's loop, plus progress, speed and a results file.

Speed is Detectron2's pure compute time (timing.py), so it compares with what Detectron2, its projects and the papers
built on it publish. Papers that time the bare network are not comparable.
"""

import contextlib
import json
import logging
import math
import os
import tempfile
from numbers import Real
from typing import Any, Callable, Dict, Mapping, Optional, Union

import detectron2.utils.comm as comm
import torch
from detectron2.evaluation import inference_on_dataset
from torch import nn
from tqdm import tqdm

from .timing import PureComputeTime, describe_machine

__all__ = ["evaluate", "float_results", "write_results"]

logger = logging.getLogger(__name__)


def evaluate(
    model: Union[nn.Module, Callable],
    data_loader,
    evaluator=None,
    amp_dtype: Optional[Union[str, torch.dtype]] = None,
) -> Dict[str, Any]:
    """Runs the model over the loader in evaluation mode; every submodule gets its own mode back, also after an error.

    Args:
        model: a Detectron2 model, or any callable with its inputs and outputs.
        data_loader: has a length and yields `batched_inputs`; batch 1 for a speed that can be quoted.
        evaluator: a DatasetEvaluator, a list of them, or None to measure only the speed.
        amp_dtype: torch.float16 or torch.bfloat16 (or their names) to run under autocast; None for the model's own
            precision.
    Returns:
        on the main process what the evaluator returns, for example {"bbox": {"AP": ..., "AP-person": ...}}, and
        "speed": fps (images per second and device), seconds_per_image, batch_size, num_devices, dtype, and
        `describe_machine`'s keys; fps is None when it could not be measured. On other processes what the evaluator
        returns there.
    """
    amp_dtype = _as_dtype(amp_dtype)
    device, dtype = _device_and_dtype(model)
    progress = _Progress(data_loader)
    with contextlib.ExitStack() as stack:
        if isinstance(model, nn.Module):
            stack.enter_context(_evaluation_mode(model))
        clock = stack.enter_context(PureComputeTime())
        stack.callback(progress.close)
        run = model if amp_dtype is None else _under_autocast(model, device, amp_dtype)
        results = dict(inference_on_dataset(run, progress, evaluator))
    if not comm.is_main_process():
        return results

    speed = _speed(clock, progress.batch_size)
    speed.update(dtype=str(amp_dtype or dtype).replace("torch.", ""), **describe_machine(device))
    _report(speed)
    results["speed"] = speed
    return results


def float_results(results: Mapping[str, Any]) -> Dict[str, Any]:
    """The numbers of nested results, as Detectron2's EvalHook and print_csv_format want them: no text, no None."""
    numbers = {}
    for key, value in results.items():
        if isinstance(value, Mapping):
            numbers[key] = float_results(value)
        elif isinstance(value, Real) and not isinstance(value, bool):
            numbers[key] = float(value)
    return numbers


def write_results(path: str, results: Mapping[str, Any], **extra: Any) -> None:
    """Writes results as JSON; NaN and infinities become null. The file is complete or absent, never half written.

    Args:
        path: target; its directory is made.
        results: nested dict of numbers and text.
        extra: further top-level entries, such as the iteration or the config's path.
    """
    directory = os.path.dirname(os.path.abspath(path))
    os.makedirs(directory, exist_ok=True)
    content = json.dumps(_jsonable({**results, **extra}), indent=2, allow_nan=False)
    handle, temporary = tempfile.mkstemp(dir=directory, prefix=os.path.basename(path), suffix=".tmp")
    try:
        with os.fdopen(handle, "w") as f:
            f.write(content + "\n")
        os.chmod(temporary, 0o644)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class _Progress:
    """The loader with a progress bar on the main process; notes the batch size."""

    def __init__(self, data_loader):
        self._loader = data_loader
        self.batch_size = 1
        self._bar = None

    def __len__(self):
        return len(self._loader)

    def __iter__(self):
        self._bar = tqdm(
            self._loader,
            desc="Evaluating",
            unit="batch",
            disable=None if comm.is_main_process() else True,  # None: only where stderr is a terminal
        )
        for batch in self._bar:
            self.batch_size = max(self.batch_size, len(batch))
            yield batch

    def close(self):
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def _evaluation_mode(model):
    # Detectron2 restores only one flag for the whole tree and not after an error; frozen parts must stay in eval mode.
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _under_autocast(model, device, dtype):
    def run(batched_inputs):
        with torch.autocast(device.type, dtype=dtype):
            return model(batched_inputs)

    return run


def _device_and_dtype(model):
    if isinstance(model, nn.Module):
        for parameter in model.parameters():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.get_default_dtype()


def _as_dtype(name) -> Optional[torch.dtype]:
    if name is None or isinstance(name, torch.dtype):
        return name
    names = {"fp16": torch.float16, "bf16": torch.bfloat16}
    dtype = names.get(name, getattr(torch, name, None))
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"amp_dtype is '{name}'; use 'float16', 'bfloat16' or None")
    return dtype


def _speed(clock: PureComputeTime, batch_size: int) -> Dict[str, Any]:
    seconds = None if clock.seconds is None else clock.seconds / batch_size
    fps = 1 / seconds if seconds else None
    return {
        "fps": fps,
        "seconds_per_image": seconds,
        "batch_size": batch_size,
        "num_devices": clock.num_devices,
    }


def _report(speed: Mapping[str, Any]) -> None:
    conditions = f"pure compute, batch {speed['batch_size']}, {speed['dtype']}, {speed['device']}"
    if speed["device_type"] == "cpu":
        conditions += f", {speed['threads']} threads"
    if speed["fps"] is None:
        logger.warning(
            f"FPS: not measured ({conditions}): Detectron2's line on the compute time is missing or reads zero"
        )
    else:
        logger.info(f"FPS: {speed['fps']:.1f} ({speed['seconds_per_image']:.4f} s/image, {conditions})")


def _jsonable(value):
    if isinstance(value, Mapping):
        return {str(k): _jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_jsonable(v) for v in value]
    if hasattr(value, "tolist"):  # tensors, NumPy arrays and scalars
        return _jsonable(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
