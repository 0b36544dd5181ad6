"""YOLOX's backbones by name, for yacs configs with `add_yolox_config`. They take images of three channels."""

from dense_d2.modeling.darknet import Darknet53
from dense_d2.modeling.yolov3_fpn import YOLOv3FPN

from detectron2.modeling import BACKBONE_REGISTRY

from .cspdarknet import CSPDarknet
from .pafpn import YOLOXPAFPN

__all__ = ["build_yolox_cspdarknet_backbone", "build_yolox_darknet53_fpn_backbone", "build_yolox_pafpn_backbone"]

NORM = dict(norm_eps=1e-3, norm_momentum=0.03)  # of all released models


@BACKBONE_REGISTRY.register()
def build_yolox_cspdarknet_backbone(cfg, input_shape):
    """CSPDarknet alone."""
    yolox = cfg.MODEL.YOLOX
    return CSPDarknet(depth=yolox.DEPTH, width=yolox.WIDTH, depthwise=yolox.DEPTHWISE, activation=yolox.ACTIVATION)


@BACKBONE_REGISTRY.register()
def build_yolox_pafpn_backbone(cfg, input_shape):
    """CSPDarknet and its path-aggregation neck: YOLOX-Nano to YOLOX-X."""
    yolox = cfg.MODEL.YOLOX
    return YOLOXPAFPN(
        bottom_up=build_yolox_cspdarknet_backbone(cfg, input_shape),
        depth=yolox.DEPTH,
        depthwise=yolox.DEPTHWISE,
        activation=yolox.ACTIVATION,
    )


@BACKBONE_REGISTRY.register()
def build_yolox_darknet53_fpn_backbone(cfg, input_shape):
    """Darknet-53 with SPP and YOLOv3's top-down path: YOLOX-Darknet53, with MODEL.YOLOX.ACTIVATION "LeakyReLU"."""
    activation = cfg.MODEL.YOLOX.ACTIVATION
    return YOLOv3FPN(bottom_up=Darknet53(activation=activation, **NORM), activation=activation, **NORM)
