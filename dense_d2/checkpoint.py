"""Checkpoints: our own, safetensors, those the papers' authors released, and ImageNet weights.

Nothing in a file is executed (see `checkpoint_file`). The format is recognised from the keys; what does not fit the model
is an error that names the keys.

Our training checkpoints hold `model`, `trainer` (iteration, optimizer, grad scaler, hooks such as EMA and the LR schedule)
and `meta` (class names, category ids, pixel settings, config, versions).
"""

import logging
import os
import re
from collections import OrderedDict

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts

from .checkpoint_file import CheckpointError, read_checkpoint, save_safetensors, shorten

__all__ = ["CheckpointError", "DenseCheckpointer", "read_checkpoint", "rename_keys", "save_safetensors"]

logger = logging.getLogger(__name__)

_PIXEL_SETTINGS = ("pixel_mean", "pixel_std", "input_format")
_BOOKKEEPING = (*_PIXEL_SETTINGS, "loss_normalizer")
# of Caffe2's ImageNet files: the classifier, and a bias of zeros before a norm
_NO_TRUNK = re.compile(r"fc1000\.|stem\.conv1\.bias$")
_OTHER_CLASSES = (
    "To train on other classes, train.reinit_head=true starts the classification layer afresh and keeps the rest; "
    "--eval-only and --resume need those of the file."
)


class DenseCheckpointer(DetectionCheckpointer):
    """Detectron2's checkpointer for dense detectors.

    Args:
        model: the detector; its class may list `released_formats` and `class_layers` (see `DenseDetector`).
        save_dir: folder for `save`.
        meta: plain dict stored in every checkpoint under "meta", together with the pixel settings of the model.
        checkpointables: further objects with state_dict/load_state_dict, such as `trainer=`.
    """

    def __init__(self, model, save_dir="", *, save_to_disk=None, meta=None, **checkpointables):
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        pixels = {key: getattr(self.model, key, None) for key in _PIXEL_SETTINGS}
        self.meta = {**(meta or {}), **_pixel_settings(pixels)}

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

    def load(self, path, checkpointables=None, *, reinit_head=False, whole=False, averaged=None):
        """Loads weights, and the state of `checkpointables` (all that the file has, unless a list of names is given).

        Args:
            path: file or URL in any of the formats above; empty: nothing is loaded.
            reinit_head: leave the layers whose shape depends on the classes as they were initialised.
            whole: refuse a file that fills only the backbone.
            averaged: "ema" or "swa": instead of the raw weights, the averages that this hook kept in training.
        Returns:
            dict: what else the file held.
        Raises:
            CheckpointError: unreadable, without those averages, or keys, shapes, classes or pixel settings do not fit.
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
        if averaged:
            checkpoint["model"].update(_averages(checkpoint, averaged, path))
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
                f"{path} was trained on {shorten(stored)} ({len(stored)} classes), the data has {shorten(expected)} "
                f"({len(expected)}). {_OTHER_CLASSES}"
            )

    def _load_weights(self, checkpoint, path, reinit_head, whole):
        state = _strip_prefix(checkpoint.pop("model"), "module.")
        target = self.model.state_dict()
        state, scope = self._recognise(state, target, path, caffe2=checkpoint.get("format") == "caffe2")
        state, scope, fresh = _move_below_new_necks(state, scope, target)
        if whole and (scope or fresh):
            holds = "only a backbone" if scope else f"a detector without {shorten(sorted(fresh))}"
            raise CheckpointError(
                f"{path} holds {holds}. Evaluation needs a trained detector: train.init_checkpoint=FILE."
            )
        expected = {key for key in target if key.startswith(scope)} - fresh
        if scope and not any(".conv_offset." in key for key in state):
            # a trunk trained with plain convolutions: the offsets of deformable ones start as they are, at zero
            expected = {key for key in expected if ".conv_offset." not in key}
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
        found = {**_pixel_settings(checkpoint.get("meta", {})), **_pixel_settings(state)}
        _check_pixel_settings(found, _pixel_settings(self.meta), path)
        kept = OrderedDict((key, value) for key, value in state.items() if key in target and key not in skipped)
        if hasattr(state, "_metadata"):
            kept._metadata = state._metadata
        self.model.load_state_dict(kept, strict=False)
        logger.info(
            "Loaded %d tensors from %s%s%s%s",
            len(kept),
            path,
            f" into {scope[:-1]}" if scope else "",
            f"; {len(fresh)} of a neck around that backbone start afresh" if fresh else "",
            f"; {', '.join(self.model.class_layers)} start afresh" if skipped else "",
        )

    def _recognise(self, state, target, path, caffe2):
        """The tensors under our names, and the prefix of the part of the model that they fill ("" for all of it)."""
        trunk = _scope(target, any) or "backbone."
        if caffe2:
            state = align_and_update_state_dicts(target, state, c2_conversion=True)
            return rename_keys(state, lambda key: None if _NO_TRUNK.match(key) else key), trunk
        if set(state) != set(target):
            for convert in getattr(self.model, "released_formats", ()):
                converted = convert(state)
                if converted is not None:
                    logger.info("%s: recognised as %s", path, convert.__doc__.splitlines()[0].rstrip("."))
                    return converted, _scope(converted)
        if set(state) & set(target):
            return state, _scope(state)
        for prefix in ("backbone.", trunk):
            prefixed = rename_keys(state, lambda key, prefix=prefix: prefix + key)
            if set(prefixed) & set(target):
                return prefixed, prefix
        return state, ""

    def _mismatch_message(self, path, missing, unexpected, shapes):
        lines = [f"{path} does not fit {type(self.model).__name__}."]
        if missing:
            lines.append(f"  {len(missing)} keys of the model are not in the file: {shorten(missing)}")
        if unexpected:
            lines.append(f"  {len(unexpected)} keys of the file are not in the model: {shorten(unexpected)}")
        if shapes:
            shown = [
                f"{key} has shape {found} in the file, {wanted} in the model" for key, (found, wanted) in shapes.items()
            ]
            lines.append(f"  {len(shapes)} shapes differ: {shorten(shown)}")
        class_layers = tuple(getattr(self.model, "class_layers", ()))
        if shapes and not missing and not unexpected and all(key.startswith(class_layers) for key in shapes):
            lines.append(f"  Only the layers that depend on the number of classes differ. {_OTHER_CLASSES}")
        else:
            lines.append("  Use the config the file was trained with.")
        return "\n".join(lines)


def _averages(checkpoint, name, path):
    """The averaged weights that a hook kept; `name` is that of its class, in lower case."""
    states = checkpoint.get("trainer", {}).get("hooks", {})
    kept = {kind.lower(): state["weights"] for kind, state in states.items() if "weights" in state}
    if name not in kept:
        raise CheckpointError(
            f"{path} holds no averages {name!r}, only {' and '.join(['the raw weights', *map(repr, kept)])}: leave "
            "`averaged` out for the raw ones, or give a checkpoint of a run whose train.hooks keep these averages."
        )
    return kept[name]


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


def _scope(keys, quantifier=all):
    """How deep in the detector all keys lie, or any does: "" for its root, "backbone.", then the trunk below each neck."""
    scope, deeper = "", "backbone."
    while keys and quantifier(key.startswith(deeper) for key in keys):
        scope, deeper = deeper, f"{deeper}bottom_up."
    return scope


def _move_below_new_necks(state, scope, target):
    """For a file of a detector whose backbone has further necks around it here, such as a fusion that is to be trained.

    Returns:
        state, scope: moved, if the state fits below these necks and nowhere else.
        fresh: set of the keys of `target` that belong to these necks; they start as they are initialised.
    """
    outer, moved = "backbone.", state
    while any(key not in target and not _is_bookkeeping(key) for key in moved):
        inner = f"{outer}bottom_up."
        if not any(key.startswith(inner) for key in target):
            return state, scope, set()
        outer = inner
        moved = rename_keys(state, lambda key, outer=outer: re.sub(r"^backbone\.", outer, key))
    if moved is state:
        return state, scope, set()
    fresh = {key for key in target if key.startswith("backbone.") and not key.startswith(outer)}
    return moved, _scope(moved), fresh


def _strip_prefix(state, prefix):
    if all(key.startswith(prefix) for key in state):
        return rename_keys(state, lambda key: key[len(prefix) :])
    return state


def _pixel_settings(values):
    """Those in a mapping, as plain values: a list of numbers, one a channel, or the channel order."""
    found = {key: values[key] for key in _PIXEL_SETTINGS if values.get(key) is not None}
    for key in found.keys() & {"pixel_mean", "pixel_std"}:
        found[key] = [round(number, 4) for number in torch.as_tensor(found[key]).flatten().tolist()]
    return found


def _check_pixel_settings(found, wanted, path):
    """Compares those of a file, its own or what its format was recognised to need, with the model's."""
    differing = [key for key in found if key in wanted and not _agree(found[key], wanted[key])]
    if not differing:
        return
    mean = found.get("pixel_mean", ())
    if len(mean) == 3 and mean[0] != mean[2]:  # the mean of red is the greatest
        found = {"input_format": "RGB" if mean[0] > mean[2] else "BGR", **found}
    fix = [f"model.{key}={found[key]}".replace(" ", "") for key in _PIXEL_SETTINGS if key in found]
    raise CheckpointError(
        f"{path} was trained with {' and '.join(f'{key}={found[key]}' for key in differing)}, the config has "
        f"{' and '.join(str(wanted[key]) for key in differing)}. Set {' '.join(fix)}, as the file needs it."
    )


def _agree(found, wanted):
    if isinstance(found, str) or len(found) != len(wanted):
        return found == wanted
    return all(abs(a - b) <= 1e-3 for a, b in zip(found, wanted))


def _is_bookkeeping(key):
    """Entries that carry no weight and that one version stores and another does not."""
    return key.endswith("num_batches_tracked") or key in _BOOKKEEPING or "cell_anchors" in key
