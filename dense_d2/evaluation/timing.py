"""Speed as Detectron2 measures it, and a description of the machine it was measured on.

`inference_on_dataset` returns only the metrics; its time stands in a log line, "Total inference pure compute time: ...
(X s / iter per device, on N devices)", the same on v0.6 and upstream main. It includes the copy to the device,
normalisation, padding, the network, NMS and the rescaling of the boxes; it excludes reading and resizing the image and
the evaluator. The first min(5, number of images - 1) iterations are not counted.
"""

import contextlib
import logging
import os
import platform
import re
from importlib import metadata
from typing import Dict, Optional, Union

import torch
import torchvision

__all__ = ["PureComputeTime", "describe_machine"]

_LINE = re.compile(r"Total inference pure compute time: .*\(([\d.eE+-]+) s / iter per device, on (\d+) devices?\)")


class PureComputeTime:
    """Context manager that reads the time from Detectron2's log line.

    It works whatever the log level is: a line that the user's level would have dropped is read and then dropped.

    Attributes, after the block:
        seconds: per iteration and device; None if no line came by.
        num_devices: number of processes that shared the data.
    """

    def __init__(self, logger_name: str = "detectron2.evaluation.evaluator"):
        self._logger = logging.getLogger(logger_name)
        self.seconds: Optional[float] = None
        self.num_devices = 1

    def __enter__(self) -> "PureComputeTime":
        logger = self._logger
        self._override = vars(logger).get("isEnabledFor")
        self._disabled, self._is_enabled_for = logger.disabled, logger.isEnabledFor
        logger.disabled, logger.isEnabledFor = False, lambda level: True  # covers levels and logging.disable()
        logger.addFilter(self)
        return self

    def __exit__(self, *exc_info) -> None:
        logger = self._logger
        logger.removeFilter(self)
        logger.disabled = self._disabled
        if self._override is None:
            del logger.isEnabledFor
        else:
            logger.isEnabledFor = self._override

    def filter(self, record: logging.LogRecord) -> bool:
        """Called by `logging` for every record of the logger; returns whether handlers see it."""
        found = _LINE.search(record.getMessage())
        if found:
            self.seconds, self.num_devices = float(found.group(1)), int(found.group(2))
        return not self._disabled and self._is_enabled_for(record.levelno)


def describe_machine(device: Union[str, torch.device]) -> Dict[str, Union[str, int]]:
    """What a speed must be quoted with: hardware, threads and library versions.

    Args:
        device: the one the model runs on.
    """
    device = torch.device(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _cpu_name()
    return {
        "device": name,
        "device_type": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": _detectron2_version(),
    }


def _detectron2_version() -> str:
    # Detectron2's own __version__ is 0.6 on both supported installs
    for name in ("detectron2", "pb1-detectron2"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return f"{name} {metadata.version(name)}"
    return "unknown"


def _cpu_name() -> str:
    model = platform.processor() or platform.machine() or "unknown CPU"
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as f:
            names = [line.split(":", 1)[1].strip() for line in f if line.startswith("model name")]
        model = names[0] if names else model
    return model
