"""yacs keys of ASFF, and the backbone that they describe."""

from dense_d2.config import register_yacs_defaults
from dense_d2.modeling.darknet import Darknet53
from dense_d2.modeling.yolov3_fpn import YOLOv3FPN

from detectron2.config import CfgNode as CN
from detectron2.modeling import BACKBONE_REGISTRY

from .drop_block import DropBlock
from .fusion import ASFFNeck

__all__ = ["add_asff_config", "build_asff_darknet53_backbone"]


@register_yacs_defaults
def add_asff_config(cfg):
    """Adds `MODEL.ASFF`, with the values of YOLOv3 + ASFF, to a Detectron2 config. Changes nothing else, no global either."""
    cfg.MODEL.ASFF = CN(
        {
            "NUM_CLASSES": 80,
            "IN_FEATURES": ["p3", "p4", "p5"],
            "NORM": "BN",
            "FUSION": "asff",  # asff, sum, concat, none
            "COMPRESS_CHANNELS": 16,
            "DROP_BLOCK": False,
            "ANCHORS": [
                [[10, 13], [16, 30], [33, 23]],
                [[30, 61], [62, 45], [42, 119]],
                [[116, 90], [156, 198], [121, 240]],
            ],
            "FREE_SLOT": True,
            "GUIDED_ANCHOR": True,
            "RFB": False,
            "IOU_LOSS": True,
            "DETACH_ANCHORS": False,
            "IGNORE_THRESH": 0.7,
            "ADJACENT_IGNORE": -1.0,  # negative: off
            "LABEL_SMOOTHING": True,
            "MIXUP_WEIGHT": "obj",  # obj, all
            "SCORE_THRESH_TEST": 0.01,
            "NMS_THRESH_TEST": 0.65,
            "TOPK_CANDIDATES_TEST": 10000,
            "DETECTIONS_PER_IMAGE": 100,
        }
    )


@BACKBONE_REGISTRY.register()
def build_asff_darknet53_backbone(cfg, input_shape):
    """Darknet-53, YOLOv3's neck and the fusion of a yacs config with `add_asff_config`; takes images of three channels."""
    asff = cfg.MODEL.ASFF
    bottom_up = YOLOv3FPN(
        bottom_up=Darknet53(norm=asff.NORM, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT),
        norm=asff.NORM,
        drop_blocks=[DropBlock() for _ in range(3)] if asff.DROP_BLOCK else None,
    )
    return ASFFNeck(
        bottom_up=bottom_up,
        in_features=asff.IN_FEATURES,
        out_channels=[256, 512, 1024],
        widen={"p3": 256},
        fusion=asff.FUSION,
        compress_channels=asff.COMPRESS_CHANNELS,
        norm=asff.NORM,
    )
