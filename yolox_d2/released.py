"""Names of the checkpoints that YOLOX's authors released, turned into ours. Layouts agree, so only names change.

The files of July 2021 ("legacy") have the same names, but expect RGB images with ImageNet's mean and standard deviation
instead of raw BGR ones. Their first layer tells: it keeps the scale of its input, and theirs is about 1, not about 60.
"""

import logging
import re

from dense_d2.checkpoint import rename_keys

__all__ = ["from_author"]

logger = logging.getLogger(__name__)

LEGACY_PIXELS = {"pixel_mean": [123.675, 116.28, 103.53], "pixel_std": [58.395, 57.12, 57.375], "input_format": "RGB"}
RAW_PIXELS = {"pixel_mean": [0.0, 0.0, 0.0], "pixel_std": [1.0, 1.0, 1.0], "input_format": "BGR"}

# pattern at the start of a name, what takes its place; applied in turn
_NECK = (
    (r"backbone\.lateral_conv0\.", "backbone.reduce5."),
    (r"backbone\.reduce_conv1\.", "backbone.reduce4."),
    (r"backbone\.bu_conv2\.", "backbone.down3."),
    (r"backbone\.bu_conv1\.", "backbone.down4."),
    (r"backbone\.C3_p(\d)\.", r"backbone.fpn\1."),
    (r"backbone\.C3_n3\.", "backbone.pan4."),
    (r"backbone\.C3_n4\.", "backbone.pan5."),
)
_CSP_DARKNET = (
    (r"backbone\.backbone\.dark5\.1\.conv1\.", "backbone.backbone.dark5.1.0."),
    (r"backbone\.backbone\.dark5\.1\.conv2\.", "backbone.backbone.dark5.1.2."),
)
_DARKNET53 = (
    (r"backbone\.backbone\.stem\.0\.", "backbone.backbone.stem."),
    (r"backbone\.backbone\.stem\.1\.", "backbone.backbone.dark1.0."),
    (r"backbone\.backbone\.stem\.2\.", "backbone.backbone.dark1.1."),
    (r"(backbone\.backbone\..*)\.layer(\d)\.", r"\1.conv\2."),
    (r"backbone\.backbone\.dark5\.5\.", "backbone.p5.0."),
    (r"backbone\.backbone\.dark5\.6\.", "backbone.p5.1."),
    (r"backbone\.backbone\.dark5\.7\.conv1\.", "backbone.p5.2."),
    (r"backbone\.backbone\.dark5\.7\.conv2\.", "backbone.p5.4."),
    (r"backbone\.backbone\.dark5\.8\.", "backbone.p5.5."),
    (r"backbone\.backbone\.dark5\.9\.", "backbone.p5.7."),
    (r"backbone\.out1_cbl\.", "backbone.lateral4."),
    (r"backbone\.out2_cbl\.", "backbone.lateral3."),
    (r"backbone\.out([12])\.([01])\.", lambda m: f"backbone.p{5 - int(m[1])}.{m[2]}."),
    (r"backbone\.out([12])\.([23])\.", lambda m: f"backbone.p{5 - int(m[1])}.3.conv{int(m[2]) - 1}."),
    (r"backbone\.out([12])\.4\.", lambda m: f"backbone.p{5 - int(m[1])}.4."),
)
_COMMON = (
    (r"backbone\.backbone\.", "backbone.bottom_up."),
    (r"(.*)\.m\.(\d+)\.", r"\1.blocks.\2."),
    (r"(.*)\.dconv\.", r"\1.0."),
    (r"(.*)\.pconv\.", r"\1.1."),
    (r"(.*)\.bn\.", r"\1.norm."),
)


def from_author(state_dict):
    """a checkpoint of YOLOX's authors.

    Returns:
        the tensors under our names, and the pixel settings that they need, as `LEGACY_PIXELS`; None if it is none of theirs.
    """
    if not any(name.startswith("backbone.backbone.") for name in state_dict):  # heads have these names with us, too
        return None
    is_darknet53 = "backbone.out1_cbl.conv.weight" in state_dict
    rules = (_DARKNET53 if is_darknet53 else _CSP_DARKNET + _NECK) + _COMMON

    def rename(name):
        for pattern, replacement in rules:
            name = re.sub("^" + pattern, replacement, name)
        return name

    renamed = rename_keys(state_dict, rename)
    renamed.update(_expected_pixels(renamed, "stem" if is_darknet53 else "stem.conv"))
    return renamed


def _expected_pixels(state_dict, stem):
    """What pixel settings the first block was trained with; nothing, and a warning, where its scale does not tell."""
    weight, scale, variance = (
        state_dict[f"backbone.bottom_up.{stem}.{name}"].float()
        for name in ("conv.weight", "norm.weight", "norm.running_var")
    )
    gain = (scale.abs() * weight.flatten(1).norm(dim=1) / (variance + 1e-3).sqrt()).median()
    if gain > 0.2:  # about 1 / the standard deviation of the input
        return LEGACY_PIXELS
    if gain < 0.05:
        return RAW_PIXELS
    logger.warning(
        "The gain of the file's first layer is %.3f; below 0.05 tells raw pixels, above 0.2 normalised ones. "
        "So nothing checks the config: evaluate with %s and with %s, and keep those with the higher AP.",
        gain,
        *(
            " ".join(f"model.{key}={value}".replace(" ", "") for key, value in x.items())
            for x in (RAW_PIXELS, LEGACY_PIXELS)
        ),
    )
    return {}
