"""YOLOF: You Only Look One-level Feature (Chen et al., CVPR 2021).

Reading order: yolof (meta-architecture), head, encoder, decoder, uniform_matcher, box_coder; then cspdarknet, released, config.
"""

from dense_d2.config import register_yacs_defaults

from .config import add_yolof_config
from .yolof import YOLOF

__all__ = ["YOLOF", "add_yolof_config"]

register_yacs_defaults(add_yolof_config)
