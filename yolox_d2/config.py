"""yacs keys of YOLOX."""

from dense_d2.config import register_yacs_defaults

from detectron2.config import CfgNode as CN

__all__ = ["add_yolox_config"]


@register_yacs_defaults
def add_yolox_config(cfg):
    """Adds `MODEL.YOLOX`, with the values of YOLOX-S, to a Detectron2 config. Changes nothing else, no global either."""
    cfg.MODEL.YOLOX = CN(
        {
            "DEPTH": 0.33,
            "WIDTH": 0.5,
            "DEPTHWISE": False,
            "ACTIVATION": "SiLU",
            "IN_FEATURES": ["p3", "p4", "p5"],
            "NUM_CLASSES": 80,
            "CENTER_RADIUS": 1.5,
            "USE_L1": False,
            "SCORE_THRESH_TEST": 0.01,
            "NMS_THRESH_TEST": 0.65,
        }
    )
