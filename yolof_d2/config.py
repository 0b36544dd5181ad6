"""yacs keys of YOLOF, named as the author's Detectron2 port names them."""

from dense_d2.config import register_yacs_defaults

from detectron2.config import CfgNode as CN

__all__ = ["add_yolof_config"]


@register_yacs_defaults
def add_yolof_config(cfg):
    """Adds `MODEL.YOLOF`, with the values of R50-C5, to a Detectron2 config. Changes nothing else, no global either."""
    cfg.MODEL.YOLOF = CN(
        {
            "ENCODER": {
                "BACKBONE_LEVEL": "res5",
                "NUM_CHANNELS": 512,
                "BLOCK_MID_CHANNELS": 128,
                "NUM_RESIDUAL_BLOCKS": 4,
                "BLOCK_DILATIONS": [2, 4, 6, 8],
                "SHORTCUT": True,
                "NORM": "BN",
                "ACTIVATION": "ReLU",
            },
            "DECODER": {
                "NUM_CLASSES": 80,
                "CLS_NUM_CONVS": 2,
                "REG_NUM_CONVS": 4,
                "NORM": "BN",
                "ACTIVATION": "ReLU",
                "PRIOR_PROB": 0.01,
            },
            "BOX_TRANSFORM": {"CTR_CLAMP": 32},
            "MATCHER": {"TOPK": 4},
            "POS_IGNORE_THRESHOLD": 0.15,
            "NEG_IGNORE_THRESHOLD": 0.7,
            "LOSSES": {"FOCAL_LOSS_GAMMA": 2.0, "FOCAL_LOSS_ALPHA": 0.25},
            "SCORE_THRESH_TEST": 0.05,
            "TOPK_CANDIDATES_TEST": 1000,
            "NMS_THRESH_TEST": 0.6,
            "DETECTIONS_PER_IMAGE": 100,
            # with MODEL.BACKBONE.NAME "build_yolof_cspdarknet_backbone"
            "CSPDARKNET": {"OUT_FEATURES": ["res5"], "NORM": "SyncBN", "RES5_DILATION": 2},
        }
    )
