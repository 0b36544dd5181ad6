"""yacs keys of VFNet."""

from dense_d2.config import register_yacs_defaults

from detectron2.config import CfgNode as CN

__all__ = ["add_vfnet_config"]


@register_yacs_defaults
def add_vfnet_config(cfg):
    """Adds `MODEL.VFNET`, with the values of VFNet-R50, to a Detectron2 config. Changes nothing else, no global either."""
    cfg.MODEL.VFNET = CN(
        {
            "IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
            "NUM_CLASSES": 80,
            "FEAT_CHANNELS": 256,
            "NUM_CONVS": 3,
            "BBOX_NORM": "reg_denom",
            "DEFORM_LAST_CONV": False,
            "PRIOR_PROB": 0.01,
            "ATSS_TOPK": 9,
            "VFL_ALPHA": 0.75,
            "VFL_GAMMA": 2.0,
            "VFL_IOU_WEIGHTED": True,
            "BOX_LOSS_WEIGHT": 1.5,
            "REFINE_LOSS_WEIGHT": 2.0,
            "SCORE_THRESH_TEST": 0.05,
            "TOPK_CANDIDATES_TEST": 1000,
            "NMS_THRESH_TEST": 0.6,
            "DETECTIONS_PER_IMAGE": 100,
            "SOFT_NMS": False,
        }
    )
