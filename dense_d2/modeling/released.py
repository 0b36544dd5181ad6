"""Names of Detectron2's ImageNet weights, turned into those of a detector on a feature pyramid."""

import re

from dense_d2.checkpoint import rename_keys

__all__ = ["from_imagenet"]

_CLASSIFIER = re.compile(r"(stem\.)?fc\.")


def from_imagenet(state_dict):
    """an ImageNet ResNet in Detectron2's names: its trunk."""
    if "res2.0.conv1.weight" not in state_dict:
        return None
    return rename_keys(state_dict, lambda key: None if _CLASSIFIER.match(key) else f"backbone.bottom_up.{key}")
