"""Names of released checkpoints, turned into ours: mmdetection's detectors with VFNet's necks, and ImageNet weights.

Layouts agree everywhere (no transposes, RGB, the same order of offset channels), so only names change. A function here takes
the state dict alone and returns None if the names are not those of its format.
"""

import re

from dense_d2.checkpoint import rename_keys

__all__ = ["from_imagenet", "from_mmdet"]

# patterns at the start of a name within the trunk, and what takes their place; applied in turn
_TRUNK = (
    (r"(conv1|bn1)\.", r"stem.\1."),
    (r"stem\.([036])\.", lambda m: f"stem.conv{int(m[1]) // 3 + 1}."),  # Res2Net's deep stem: convolution, norm, ReLU
    (r"stem\.([147])\.", lambda m: f"stem.conv{int(m[1]) // 3 + 1}.norm."),
    (r"layer(\d)\.", lambda m: f"res{int(m[1]) + 1}."),
    (r"(.*)\.bn(\d)\.", r"\1.conv\2.norm."),
    (r"(.*)\.bns\.(\d)\.", r"\1.convs.\2.norm."),
    (r"(.*)\.conv2_offset\.", r"\1.conv2.conv_offset."),  # deformable convolutions of old files
)
_SHORTCUT = ((r"(.*)\.downsample\.0\.", r"\1.shortcut."), (r"(.*)\.downsample\.1\.", r"\1.shortcut.norm."))
# Res2Net's shortcuts begin with a pool, without weights
_POOLED_SHORTCUT = ((r"(.*)\.downsample\.1\.", r"\1.shortcut."), (r"(.*)\.downsample\.2\.", r"\1.shortcut.norm."))

_FPN = (
    (r"lateral_convs\.(\d)\.", lambda m: f"fpn_lateral{int(m[1]) + 3}."),
    (r"fpn_convs\.([012])\.", lambda m: f"fpn_output{int(m[1]) + 3}."),
    (r"fpn_convs\.([34])\.", lambda m: f"top_block.p{int(m[1]) + 3}."),
    (r"(.*)\.conv\.", r"\1."),
    (r"(.*)\.gn\.", r"\1.norm."),
)
_PAFPN = ((r"(\w+\.\d)\.conv\.", r"\1."), (r"(.*)\.gn\.", r"\1.norm."))

_HEAD = ((r"(.*)\.gn\.", r"\1.norm."), (r"(scales(_refine)?\.\d)\.scale$", r"\1"))


def from_mmdet(state_dict):
    """a detector of mmdetection, as VFNet's authors released theirs."""
    if "neck.lateral_convs.0.conv.weight" not in state_dict:
        return None
    parts = {
        "backbone.": ("backbone.bottom_up.", _trunk_rules(state_dict, "backbone.")),
        "neck.": ("backbone.", _PAFPN if "neck.pafpn_convs.0.conv.weight" in state_dict else _FPN),
        "bbox_head.": ("head.", _HEAD),
    }
    return _rename(state_dict, parts)


def from_imagenet(state_dict):
    """an ImageNet classifier of torchvision, Detectron2 or OpenMMLab: its trunk."""
    prefix = "backbone." if "backbone.layer1.0.conv1.weight" in state_dict else ""
    is_plain = "layer1.0.conv1.weight" in state_dict or "res2.0.conv1.weight" in state_dict
    if not (is_plain or prefix) or any(name.startswith(("neck.", "bbox_head.")) for name in state_dict):
        return None
    return _rename(state_dict, {prefix: ("backbone.bottom_up.", _trunk_rules(state_dict, prefix))}, classifier=True)


def _trunk_rules(state_dict, prefix):
    is_res2net = f"{prefix}stem.0.weight" in state_dict
    return _TRUNK + (_POOLED_SHORTCUT if is_res2net else _SHORTCUT)


def _rename(state_dict, parts, classifier=False):
    """
    Args:
        parts: prefix in the file -> (our prefix, rules for what comes after it).
        classifier: leave out the layers of a classifier, and whatever else is in no part.
    """

    def rename(name):
        if name.endswith("num_batches_tracked") or (classifier and re.match(r"(stem\.|head\.)?fc\.", name)):
            return None  # norms on frozen statistics count nothing
        for prefix, (our_prefix, rules) in parts.items():
            if name.startswith(prefix):
                name = name[len(prefix) :]
                for pattern, replacement in rules:
                    name = re.sub("^" + pattern, replacement, name)
                return our_prefix + name
        return None if classifier else name

    return rename_keys(state_dict, rename)
