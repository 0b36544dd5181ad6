"""Checkpoint files, read and written without executing anything in them.

`.pth` files are read with `weights_only=True` and no fallback, `.safetensors` by its own library, Caffe2 `.pkl` files by an
unpickler that knows NumPy arrays and nothing else.
"""

import contextlib
import json
import os
import pickle
from collections import OrderedDict

import numpy as np
import torch

from .errors import UserError

__all__ = ["CheckpointError", "read_checkpoint", "save_safetensors", "shorten"]

_METADATA_KEY = "dense_d2"
_SHOWN_KEYS = 8


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or that does not fit the model."""


def read_checkpoint(path):
    """Reads a checkpoint file without executing anything in it.

    Returns:
        dict with "model" (name -> tensor) and whatever else the file holds; "format" is "caffe2" for Caffe2 ImageNet files.
    Raises:
        CheckpointError: not a checkpoint, or it holds more than tensors, arrays, numbers, strings and containers.
    """
    try:
        if path.endswith(".safetensors"):
            return _read_safetensors(path)
        if path.endswith(".pkl"):
            return _read_arrays(path)
        with _plain_numpy_allowed():
            data = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(
            f"Cannot read {path}: {reason}\n  Files are read as plain tensors and containers only, "
            "so that nothing in them can run code. If the file is whole and you trust it, re-save its "
            'tensors where it was made: torch.save({"model": model.state_dict()}, path).'
        ) from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not a dictionary of tensors.")
    for key in ("model", "state_dict", "model_state"):
        if isinstance(data.get(key), dict):
            rest = {name: value for name, value in data.items() if name != key}
            return {**rest, "model": _tensors(data[key], path)}
    return {"model": _tensors(data, path)}


def save_safetensors(path, state_dict, meta):
    """Writes weights in model-zoo style: tensors and a JSON header, nothing else.

    Args:
        path: ends in ".safetensors"; must not exist.
        state_dict: name -> tensor.
        meta: JSON-serialisable, as `DenseCheckpointer.meta`.
    """
    from safetensors.torch import save_file

    if os.path.exists(path):
        raise FileExistsError(f"{path} exists; remove it or choose another name.")
    tensors = {key: value.detach().cpu().contiguous().clone() for key, value in state_dict.items()}
    save_file(tensors, path + ".part", metadata={_METADATA_KEY: json.dumps(meta)})
    os.replace(path + ".part", path)


def _read_safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            tensors = OrderedDict((key, file.get_tensor(key)) for key in file.keys())  # noqa: SIM118 (no mapping)
            meta = json.loads((file.metadata() or {}).get(_METADATA_KEY, "{}"))
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    return {"model": tensors, "meta": meta}


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds NumPy arrays and plain containers; any other global is refused."""

    ALLOWED = {
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
    }

    def find_class(self, module, name):
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which is no array")
        if module == "numpy.core.multiarray":
            module = np.ndarray.__reduce__(np.zeros(1))[0].__module__  # where this NumPy keeps it
        return super().find_class(module, name)


def _read_arrays(path):
    """Caffe2 ImageNet weights, and Detectron2's model zoo files."""
    with open(path, "rb") as file:
        data = _ArrayUnpickler(file, encoding="latin1").load()
    if not isinstance(data, dict):
        raise ValueError(f"it holds a {type(data).__name__}, not a dictionary")
    if "model" in data and "__author__" in data:
        return {"model": _tensors(data["model"], path)}
    blobs = data.get("blobs", data)
    arrays = {
        key: value for key, value in blobs.items() if isinstance(value, np.ndarray) and not key.endswith("_momentum")
    }
    return {"model": _tensors(arrays, path), "format": "caffe2"}


def _plain_numpy_allowed():
    """Lets `torch.load` rebuild NumPy numbers and arrays, which some training loops store beside the weights."""
    if not hasattr(torch.serialization, "safe_globals"):
        return contextlib.nullcontext()
    reconstruct, scalar = np.ndarray.__reduce__(np.zeros(1))[0], np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in "?bhilqBHILQefd"}
    names = [
        reconstruct,
        scalar,
        np.ndarray,
        np.dtype,
        *kinds,
        (reconstruct, "numpy.core.multiarray._reconstruct"),
        (scalar, "numpy.core.multiarray.scalar"),
    ]
    try:
        return torch.serialization.safe_globals(names)
    except (TypeError, ValueError):  # torch < 2.6 takes no aliases
        return torch.serialization.safe_globals(names[:-2])


def _tensors(state, path):
    """Keeps the tensors of a state dict (arrays become tensors), with its module versions."""
    tensors = OrderedDict()
    for key, value in state.items():
        if isinstance(value, np.ndarray):
            value = torch.from_numpy(np.ascontiguousarray(value)) if value.dtype.kind in "fiub" else None
        if isinstance(key, str) and isinstance(value, torch.Tensor):
            tensors[key] = value
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors: its keys are {shorten(list(map(str, state)))}.")
    if hasattr(state, "_metadata"):
        tensors._metadata = state._metadata
    return tensors


def shorten(names):
    """The first few names, and how many more there are."""
    names = list(names)
    more = f", ... ({len(names) - _SHOWN_KEYS} more)" if len(names) > _SHOWN_KEYS else ""
    return ", ".join(map(str, names[:_SHOWN_KEYS])) + more
