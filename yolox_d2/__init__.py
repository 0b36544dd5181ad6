"""YOLOX: Exceeding YOLO Series in 2021 (Ge et al., 2021).

Reading order: yolox (meta-architecture), head, box_coder, simota, assignment; then dense, cspdarknet, pafpn, released, config.
"""

from .backbones import build_yolox_pafpn_backbone
from .config import add_yolox_config
from .yolox import YOLOX

__all__ = ["YOLOX", "add_yolox_config", "build_yolox_pafpn_backbone"]
