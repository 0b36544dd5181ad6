"""Checkpoints: our own, safetensors, those the papers' authors released, and ImageNet weights.

Nothing in a file is executed: `.pth` files are read with `weights_only=True` and no fallback, Caffe2 `.pkl` files by an
unpickler that knows NumPy arrays and nothing else. The format is recognised from the keys; what does not fit the model is an
error that names the keys.

Our training checkpoints hold `model`, `trainer` (iteration, optimizer, grad scaler, hooks such as EMA and the LR schedule)
and `meta` (class names, category ids, config, versions).
"""

import contextlib
import json
import logging
import os
import pickle
from collections import OrderedDict

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

from .errors import UserError

__all__ = ["CheckpointError", "DenseCheckpointer", "read_checkpoint", "rename_keys", "save_safetensors"]

logger = logging.getLogger(__name__)

_METADATA_KEY = "dense_d2"
_SHOWN_KEYS = 8


class CheckpointError(UserError):
    """A checkpoint that cannot be read, or that does not fit the model."""


class DenseCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for dense detectors.

    Args:
        model: the detector; its class may list `released_formats` and `class_layers` (see `DenseDetector`).
        save_dir: folder for `save`.
        meta: plain dict stored in every checkpoint under "meta".
        checkpointables: further objects with state_dict/load_state_dict, such as `trainer=`.
    """

    def __init__(self, model, save_dir="", *, save_to_disk=None, meta=None, **checkpointables):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.meta = meta or {}

    def save(self, name, **kwargs):
        """Writes `<save_dir>/<name>.pth`: a half-written file never takes the place of a good one."""
        if not self.save_dir or not self.save_to_disk:
            return
        data = {"model": self.model.state_dict(), "meta": self.meta, **kwargs}
        data.update((key, obj.state_dict()) for key, obj in self.checkpointables.items())
        path = os.path.join(self.save_dir, f"{name}.pth")
        logger.info("Saving checkpoint to %s", path)
        with open(path + ".part", "wb") as file:
            torch.save(data, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(path + ".part", path)
        self.tag_last_checkpoint(f"{name}.pth")

    def load(self, path, checkpointables=None, *, reinit_head=False, whole=False):
        """Loads weights, and the state of `checkpointables` (all that the file has, unless a list of names is given).

        Args:
            path: file or URL in any of the formats above; empty: nothing is loaded.
            reinit_head: leave the layers whose shape depends on the classes as they were initialised.
            whole: refuse a file that fills only the backbone.
        Returns:
            dict: what else the file held.
        Raises:
            CheckpointError: unreadable, or keys, shapes, classes or pixel statistics do not fit.
        """
        if not path:
            logger.info("No checkpoint given: the model starts from its initialisation.")
            return {}
        try:
            local_path = self.path_manager.get_local_path(path)
        except OSError as error:
            raise CheckpointError(
                f"Cannot fetch {path} ({error}). Download it where there is a network and give train.init_checkpoint the file."
            ) from error
        if not os.path.isfile(local_path):
            raise FileNotFoundError(f"No checkpoint {path!r}: give train.init_checkpoint a file, or leave it empty.")
        checkpoint = read_checkpoint(local_path)
        self._check_classes(checkpoint.get("meta", {}), path, reinit_head)
        self._load_weights(checkpoint, path, reinit_head, whole)
        for key in self.checkpointables if checkpointables is None else checkpointables:
            if key in checkpoint:
                logger.info("Loading %s from %s", key, path)
                self.checkpointables[key].load_state_dict(checkpoint.pop(key))
        return checkpoint

    def resume_or_load(self, path, *, resume=True, reinit_head=False):
        """Resumes from the last checkpoint of `save_dir` if asked to and there is one, else loads the weights of `path`."""
        if resume and self.has_checkpoint():
            return self.load(self.get_checkpoint_file())
        return self.load(path, checkpointables=[], reinit_head=reinit_head)

    def _check_classes(self, meta, path, reinit_head):
        stored, expected = meta.get("class_names"), self.meta.get("class_names")
        if not reinit_head and stored and expected and list(stored) != list(expected):
            raise CheckpointError(
                f"{path} was trained on {_short(stored)} ({len(stored)} classes), the data has {_short(expected)} "
                f"({len(expected)}). train.reinit_head=true starts the classification layer afresh."
            )

    def _load_weights(self, checkpoint, path, reinit_head, whole):
        state = _strip_prefix(checkpoint.pop("model"), "module.")
        _check_pixel_statistics(self.model, state, path)
        target = self.model.state_dict()
        state, scope = self._recognise(state, target, path, caffe2=checkpoint.get("format") == "caffe2")
        if whole and scope:
            raise CheckpointError(
                f"{path} holds only a backbone. Evaluation needs a trained detector: train.init_checkpoint=FILE."
            )
        expected = {key for key in target if key.startswith(scope)}
        skipped = set()
        if reinit_head:
            skipped = {key for key in target if key.startswith(tuple(self.model.class_layers))}
            if not skipped:
                raise CheckpointError(f"train.reinit_head=true: {type(self.model).__name__} names no class_layers.")
        missing = sorted(key for key in expected - skipped - set(state) if not _is_bookkeeping(key))
        unexpected = sorted(key for key in set(state) - set(target) if not _is_bookkeeping(key))
        shapes = {
            key: (tuple(value.shape), tuple(target[key].shape))
            for key, value in state.items()
            if key in target and key not in skipped and value.shape != target[key].shape
        }
        if missing or unexpected or shapes:
            raise CheckpointError(self._mismatch_message(path, missing, unexpected, shapes))
        kept = OrderedDict((key, value) for key, value in state.items() if key in target and key not in skipped)
        if hasattr(state, "_metadata"):
            kept._metadata = state._metadata
        self.model.load_state_dict(kept, strict=False)
        logger.info(
            "Loaded %d tensors from %s%s%s",
            len(kept),
            path,
            f" into {scope[:-1]}" if scope else "",
            f"; {', '.join(self.model.class_layers)} start afresh" if skipped else "",
        )

    def _recognise(self, state, target, path, caffe2):
        """The tensors under our names, and the prefix of the part of the model that they fill ("" for all of it)."""
        if caffe2:
            return align_and_update_state_dicts(target, state, c2_conversion=True), "backbone."
        if set(state) != set(target):
            for convert in getattr(self.model, "released_formats", ()):
                converted = convert(state)
                if converted is not None:
                    logger.info("%s: recognised as %s", path, convert.__doc__.splitlines()[0].rstrip("."))
                    return converted, ""
        if set(state) & set(target):
            return state, "backbone." if all(key.startswith("backbone.") for key in state) else ""
        prefixed = rename_keys(state, lambda key: f"backbone.{key}")
        if set(prefixed) & set(target):
            return prefixed, "backbone."
        return state, ""

    def _mismatch_message(self, path, missing, unexpected, shapes):
        lines = [f"{path} does not fit {type(self.model).__name__}."]
        if missing:
            lines.append(f"  {len(missing)} keys of the model are not in the file: {_short(missing)}")
        if unexpected:
            lines.append(f"  {len(unexpected)} keys of the file are not in the model: {_short(unexpected)}")
        if shapes:
            shown = [
                f"{key} has shape {found} in the file, {wanted} in the model" for key, (found, wanted) in shapes.items()
            ]
            lines.append(f"  {len(shapes)} shapes differ: {_short(shown)}")
        class_layers = tuple(getattr(self.model, "class_layers", ()))
        if shapes and not missing and not unexpected and all(key.startswith(class_layers) for key in shapes):
            lines.append(
                "  Only the layers that depend on the number of classes differ: "
                "train.reinit_head=true starts them afresh and keeps the rest."
            )
        else:
            lines.append("  Use the config the file was trained with.")
        return "\n".join(lines)


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


def rename_keys(state_dict, rename):
    """A copy of a state dict with keys `rename(key)`; keys that become None are dropped. Module versions move along."""
    renamed = OrderedDict((rename(key), value) for key, value in state_dict.items())
    renamed.pop(None, None)
    metadata = getattr(state_dict, "_metadata", None)
    if metadata is not None:
        # module names have no trailing part: rename a would-be parameter and cut it off again
        moved = ((rename(f"{name}.weight" if name else "weight"), version) for name, version in metadata.items())
        renamed._metadata = OrderedDict((key.rpartition(".")[0], version) for key, version in moved if key)
    return renamed


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
        raise CheckpointError(f"{path} holds no tensors: its keys are {_short(list(map(str, state)))}.")
    if hasattr(state, "_metadata"):
        tensors._metadata = state._metadata
    return tensors


def _strip_prefix(state, prefix):
    if all(key.startswith(prefix) for key in state):
        return rename_keys(state, lambda key: key[len(prefix) :])
    return state


def _check_pixel_statistics(model, state, path):
    for name in ("pixel_mean", "pixel_std"):
        ours, theirs = getattr(model, name, None), state.get(name)
        if ours is None or theirs is None:
            continue
        if theirs.numel() != ours.numel() or not torch.allclose(
            theirs.float().flatten(), ours.cpu().flatten(), atol=1e-3
        ):
            raise CheckpointError(
                f"{path} was trained with {name}={theirs.flatten().tolist()}, the config has {ours.flatten().tolist()}. "
                f"Set model.{name} to the file's."
            )


def _is_bookkeeping(key):
    """Entries that carry no weight and that one version stores and another does not."""
    return key.endswith("num_batches_tracked") or key in ("pixel_mean", "pixel_std") or "cell_anchors" in key


def _short(names):
    names = list(names)
    more = f", ... ({len(names) - _SHOWN_KEYS} more)" if len(names) > _SHOWN_KEYS else ""
    return ", ".join(map(str, names[:_SHOWN_KEYS])) + more
