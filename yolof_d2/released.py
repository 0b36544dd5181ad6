"""Names of released YOLOF checkpoints, turned into ours: the author's Detectron2 port, cvpods, and mmdetection.

Layouts agree everywhere (no transposes, BGR, the same channel orders), so only names change. A function here takes the
state dict alone and returns None if the names are not those of its format.
"""

import re

from dense_d2.checkpoint import rename_keys

import torch

__all__ = ["from_author", "from_mmdet"]

# constants that our model rebuilds, and the list of layers of Caffe2 files
_DROPPED = re.compile(r"pixel_(mean|std)$|anchor_generator\.|weight_order$")

# pattern at the start of a name, what takes its place; applied in turn
_FROM_MMDET = (
    (r"backbone\.(conv1|bn1)\.", r"backbone.stem.\1."),
    (r"backbone\.layer(\d)\.", lambda m: f"backbone.res{int(m[1]) + 1}."),
    (r"(backbone\..*)\.downsample\.0\.", r"\1.shortcut."),
    (r"(backbone\..*)\.downsample\.1\.", r"\1.shortcut.norm."),
    (r"(backbone\..*)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"neck\.", "head.encoder."),
    (r"bbox_head\.", "head.decoder."),
    (r"(.*dilated_encoder_blocks\.\d+\.conv\d)\.conv\.", r"\1.0."),
    (r"(.*dilated_encoder_blocks\.\d+\.conv\d)\.bn\.", r"\1.1."),
    (r"(.*_subnet)\.(\d+)\.conv\.", lambda m: f"{m[1]}.{3 * int(m[2])}."),
    (r"(.*_subnet)\.(\d+)\.bn\.", lambda m: f"{m[1]}.{3 * int(m[2]) + 1}."),
)


def from_author(state_dict):
    """a checkpoint of YOLOF's author: the Detectron2 port, or cvpods."""
    if "encoder.lateral_conv.weight" not in state_dict:
        return None
    return _rename(state_dict, ((r"(encoder|decoder)\.", r"head.\1."),))


def from_mmdet(state_dict):
    """mmdetection's YOLOF."""
    if "neck.lateral_conv.weight" not in state_dict:
        return None
    renamed = _rename(state_dict, _FROM_MMDET)
    for name in list(renamed):
        if re.match(r"backbone\..*\.num_batches_tracked$", name):
            del renamed[name]  # our frozen norms count nothing
        elif re.match(r".*(blocks\.\d+\.conv\d\.0|_subnet\.\d+)\.weight$", name) and renamed[name].dim() == 4:
            # mmdetection has no bias where a norm follows; ours, as released, do
            renamed[re.sub("weight$", "bias", name)] = torch.zeros(len(renamed[name]))
    return renamed


def _rename(state_dict, rules):
    def rename(name):
        if _DROPPED.match(name):
            return None
        for pattern, replacement in rules:
            name = re.sub("^" + pattern, replacement, name)
        return name

    return rename_keys(state_dict, rename)
