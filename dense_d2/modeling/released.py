"""Checkpoints in Detectron2's names for detectors whose pyramid may lie below further necks, such as a fusion.

A neck is a backbone around a `bottom_up`, so each neck more puts one "bottom_up." more before the names of what it surrounds. A
function here takes the state dict of a file and that of the model, and returns None if the file is not of its format.
"""

import logging
import re

from dense_d2.checkpoint import rename_keys

__all__ = ["from_detector", "from_trunk"]

logger = logging.getLogger(__name__)

BACKBONE, BELOW = "backbone.", "bottom_up."
STATE = ("loss_normalizer",)  # moving averages of a training, which Detectron2 does not store
_NO_WEIGHT = re.compile(r"pixel_(mean|std)$|anchor_generator\.|.*num_batches_tracked$")
_MODULE = re.compile(r"backbone\.(bottom_up\.)*\w+")
_CLASSIFIER = re.compile(r"(stem\.)?fc\.")


def from_detector(state_dict, target):
    """
    Args:
        state_dict: of the same detector without its outer necks, or with all of them but without `STATE`.
        target: the model's own.
    Returns:
        state_dict in the names of `target`; what the file cannot have, outer necks and `STATE`, as it is in `target`.
    """
    if all(key.startswith(BACKBONE) or _NO_WEIGHT.match(key) for key in state_dict):
        return None  # a trunk, which the checkpointer finds a place for
    for depth in range(_depth(target) + 1):
        outer = BACKBONE + BELOW * depth
        state = rename_keys(state_dict, lambda key, outer=outer: _rename(key, outer, target))
        if all(key in target or _NO_WEIGHT.match(key) for key in state):
            necks = {key for key in target if key.startswith(BACKBONE) and not key.startswith(outer)}
            if necks:
                names = ", ".join(sorted({_MODULE.match(key)[0] for key in necks}))
                logger.warning(
                    "The file has no %s: these %d tensors stay as they are and need training.", names, len(necks)
                )
            state.update((key, target[key]) for key in necks.union(STATE) if key in target and key not in state)
            return state
    return None


def from_trunk(state_dict, target):
    """
    Args:
        state_dict: ResNet of ImageNet in the names of Detectron2's model zoo, such as its torchvision/R-50.pkl.
        target: the model's own.
    Returns:
        the same, without the classifier, below all necks of `target`.
    """
    if "res2.0.conv1.weight" not in state_dict:
        return None
    trunk = BACKBONE + BELOW * _depth(target)
    return rename_keys(state_dict, lambda key: None if _CLASSIFIER.match(key) else trunk + key)


def _depth(target):
    """How many necks the trunk lies below."""
    depth = 0
    while any(key.startswith(BACKBONE + BELOW * (depth + 1)) for key in target):
        depth += 1
    return depth


def _rename(key, outer, target):
    if key in STATE and key not in target:
        return None
    return outer + key[len(BACKBONE) :] if key.startswith(BACKBONE) else key
