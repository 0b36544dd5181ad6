"""Names of the checkpoints that ASFF's authors released, and of the ImageNet weights to start from, turned into ours.

A released detector is a bare state dict, in part in float16. The trunk is one list of modules, `module_list.N`, in the order of
computation, but numbered differently in each model: baseline and mobile models have other modules in between. So its
convolutions are matched by their order, and the rest by name; the shapes are compared when they are loaded.
"""

import re
from collections import OrderedDict

from dense_d2.checkpoint import CheckpointError, rename_keys
from dense_d2.modeling.darknet import NUM_BLOCKS

__all__ = ["check_flags", "flags_of", "flags_of_model", "from_author", "from_imagenet", "from_torchvision"]

DARKNET_KEYS = "module_list.0.conv.weight"
MOBILENET_KEYS = "module_list.0.0.weight"
LAST_BACKBONE_MODULE = {"Darknet53": 10, "MobileNetV2": 18}
BOTTOM_UP = "backbone.bottom_up.bottom_up."
NECK = "backbone.bottom_up."
BACKBONE_FLAG = "model.backbone.bottom_up.bottom_up"

_CONV = re.compile(r"(module_list\..*)\.conv\.weight$")
_RULES = (
    # levels are numbered coarse first there, heads high resolution first here
    (r"level_(\d)_header\.", lambda m: f"head.levels.{2 - int(m[1])}."),
    (r"level_(\d)_(?:fusion|conv)\.stride_level_(\d)\.", r"backbone.levels.\1.down.\2."),
    (r"level_(\d)_(?:fusion|conv)\.compress_level_(\d)\.", r"backbone.levels.\1.up.\2."),
    (r"level_(\d)_(?:fusion|conv)\.weight_level_(\d)\.", r"backbone.levels.\1.weight_convs.\2."),
    (r"level_(\d)_(?:fusion|conv)\.weight_levels\.", r"backbone.levels.\1.weight_logits."),
    (r"level_(\d)_(?:fusion|conv)\.expand\.", r"backbone.levels.\1.expand."),
    (r"level_(\d)_conv\.", r"backbone.levels.\1.expand."),
    # the n-th map of a level stands in the n-th place; a pool comes before the convolution where two levels are jumped
    (r"(backbone\.levels\.0)\.down\.2\.", r"\1.resize.2.1."),
    (r"(backbone\.levels\.\d)\.(?:down|up)\.(\d)\.", r"\1.resize.\2.0."),
    (r"(backbone\..*)\.batch_norm\.", r"\1.norm."),
    (r"(head\.levels\.\d)\.conv\.", r"\1.predict."),
    (r"(head\.levels\.\d)\.Feature_adaption\.", r"\1.adaption."),
    (r"(head\..*)\.dconv\.", r"\1.deform_conv."),
    (r"(head\..*)\.rfb\.branch_(\d)\.", r"\1.rfb.branches.\2."),
)


def flags_of(state_dict):
    """What the keys and shapes tell of a released detector, by the name of our setting; None if it is none."""
    if not any(key.endswith("guide_wh.weight") for key in state_dict):
        return None
    if DARKNET_KEYS not in state_dict and MOBILENET_KEYS not in state_dict:
        return None
    mobile = DARKNET_KEYS not in state_dict
    weight = state_dict.get("level_0_fusion.weight_level_0.conv.weight")
    weight = state_dict.get("level_0_conv.weight_level_0.conv.weight") if weight is None else weight
    return {
        BACKBONE_FLAG: "MobileNetV2" if mobile else "Darknet53",
        "model.backbone.fusion": "none" if weight is None else "asff",
        "model.backbone.compress_channels": None if weight is None else weight.shape[0],
        "model.head.rfb": any(".rfb." in key for key in state_dict),
    }


def flags_of_model(model):
    """The same of our detector."""
    backbone = model.backbone
    fusion = backbone.levels[0].fusion
    return {
        BACKBONE_FLAG: type(backbone.bottom_up.bottom_up).__name__,
        "model.backbone.fusion": fusion,
        "model.backbone.compress_channels": backbone.compress_channels if fusion == "asff" else None,
        "model.head.rfb": model.head.rfb,
    }


def check_flags(found, wanted):
    """Raises CheckpointError if a released file (`flags_of`) is for another model than ours (`flags_of_model`)."""
    wrong = [flag for flag in found if found[flag] != wanted[flag]]
    if not wrong:
        return
    if "model.backbone.fusion" in wrong:  # says it all
        wrong = [flag for flag in wrong if flag != "model.backbone.compress_channels"]
    facts = "; ".join(f"{flag} is {found[flag]} in the file, {wanted[flag]} in the config" for flag in wrong)
    fixes = [f"{flag}={found[flag]}" for flag in wrong if flag != BACKBONE_FLAG]
    if BACKBONE_FLAG in wrong:
        fixes.insert(0, "a config of that backbone")
    raise CheckpointError(f"A checkpoint of ASFF's authors for another model: {facts}. Use {', '.join(fixes)}.")


def from_author(state_dict):
    """a checkpoint of ASFF's authors."""
    flags = flags_of(state_dict)
    if flags is None:
        return None
    backbone, fusion = flags[BACKBONE_FLAG], flags["model.backbone.fusion"]
    # the baseline's heads stand in the list
    heads = sorted(int(key.split(".")[1]) for key in state_dict if re.match(r"module_list\.\d+\.guide_wh\.weight", key))
    state = OrderedDict()
    for key, value in state_dict.items():
        for level, number in enumerate(heads):
            key = re.sub(rf"^module_list\.{number}\.", f"level_{level}_header.", key)
        state[key] = value
    names = _trunk_names(state, backbone, _neck_names(backbone, with_heads=fusion == "none"))
    return OrderedDict((_rename(key, names), _to_float(value)) for key, value in state.items())


def from_imagenet(state_dict):
    """ASFF's Darknet-53 of ImageNet."""
    if DARKNET_KEYS not in state_dict or any(not key.startswith("module_list.") for key in state_dict):
        return None
    if any(int(key.split(".")[1]) > LAST_BACKBONE_MODULE["Darknet53"] for key in state_dict):
        return None
    names = _trunk_names(state_dict, "Darknet53", [])
    return OrderedDict((_rename(key, names), _to_float(value)) for key, value in state_dict.items())


def from_torchvision(state_dict):
    """torchvision's MobileNetV2 of ImageNet."""
    if "features.18.0.weight" not in state_dict or "classifier.1.weight" not in state_dict:
        return None
    return rename_keys(state_dict, lambda key: BOTTOM_UP + key if key.startswith("features.") else None)


def _to_float(value):
    return value.float() if value.is_floating_point() else value


def _trunk_names(state_dict, backbone, neck):
    """Released prefix of each trunk convolution -> ours."""
    prefixes = {m[1] for m in map(_CONV.match, state_dict) if m}
    if backbone == "MobileNetV2":  # torchvision's names up to its last layer
        prefixes = {p for p in prefixes if int(p.split(".")[1]) > LAST_BACKBONE_MODULE[backbone]}
    ordered = sorted(prefixes, key=lambda prefix: [int(part) for part in re.findall(r"\d+", prefix)])
    ours = neck if backbone == "MobileNetV2" else _darknet_names() + neck
    return dict(zip(ordered, ours))


def _darknet_names():
    names = ["stem"]
    for stage, num_blocks in enumerate(NUM_BLOCKS, start=1):
        names.append(f"dark{stage}.0")
        names += [f"dark{stage}.{block}.conv{i}" for block in range(1, num_blocks + 1) for i in (1, 2)]
    return [BOTTOM_UP + name for name in names]


def _neck_names(backbone, with_heads):
    """Ours, in the order of the released list. The baseline's convolutions before a head, which are ours of the fusion
    "none", stand there, too; the mobile models name them."""
    with_heads = with_heads and backbone == "Darknet53"
    names = [f"p5.{i}" for i in (0, 1, 2, 4, 5, 7)]
    names += ["levels.0.expand"] * with_heads
    names += ["lateral4", "p4.0", "p4.1", "p4.3.conv1", "p4.3.conv2", "p4.4"]
    names += ["levels.1.expand"] * with_heads
    names += ["lateral3", "p3.0", "p3.1", "p3.3.conv1", "p3.3.conv2", "p3.4"]
    names = [("backbone." if name.startswith("levels") else NECK) + name for name in names]
    return names + ["backbone.widen.p3"] * (backbone == "Darknet53")


def _rename(key, names):
    match = re.match(r"(module_list\..*)\.(conv|batch_norm)\.([a-z_]+)$", key)
    if match and match[1] in names:
        return f"{names[match[1]]}.{'norm' if match[2] == 'batch_norm' else 'conv'}.{match[3]}"
    key = re.sub(r"^module_list\.(?=\d)", BOTTOM_UP + "features.", key)
    for pattern, replacement in _RULES:
        key = re.sub("^" + pattern, replacement, key)
    return key
