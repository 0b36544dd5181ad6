"""ASFF: Learning Spatial Fusion for Single-Shot Object Detection (Liu et al. 2019).

Reading order: asff (meta-architecture), fusion (the neck, for any pyramid), head, anchors, targets; then conv, rfb, drop_block,
mobilenetv2, released, config.
"""

from .asff import ASFF
from .config import add_asff_config, build_asff_darknet53_backbone
from .fusion import ASFFNeck

__all__ = ["ASFF", "ASFFNeck", "add_asff_config", "build_asff_darknet53_backbone"]
