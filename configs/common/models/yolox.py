"""YOLOX-L, the whole network; the other sizes change depth and width."""

from yolox_d2.box_coder import GridBoxCoder
from yolox_d2.cspdarknet import CSPDarknet
from yolox_d2.head import YOLOXHead
from yolox_d2.pafpn import YOLOXPAFPN
from yolox_d2.simota import SimOTA
from yolox_d2.yolox import YOLOX

from detectron2.config import LazyCall as L

model = L(YOLOX)(
    backbone=L(YOLOXPAFPN)(
        bottom_up=L(CSPDarknet)(
            depth=1.0, width=1.0, depthwise=False, norm="BN", norm_eps=1e-3, norm_momentum=0.03, activation="SiLU"
        ),
        in_features=["dark3", "dark4", "dark5"],
        depth="${.bottom_up.depth}",
        depthwise="${.bottom_up.depthwise}",
        norm="${.bottom_up.norm}",
        norm_eps="${.bottom_up.norm_eps}",
        norm_momentum="${.bottom_up.norm_momentum}",
        activation="${.bottom_up.activation}",
    ),
    head_in_features=["p3", "p4", "p5"],
    head=L(YOLOXHead)(
        in_channels=[256, 512, 1024],
        channels=256,
        width="${..backbone.bottom_up.width}",
        num_classes="${..num_classes}",
        num_anchors=1,
        depthwise="${..backbone.depthwise}",
        norm="${..backbone.norm}",
        norm_eps="${..backbone.norm_eps}",
        norm_momentum="${..backbone.norm_momentum}",
        activation="${..backbone.activation}",
        prior_prob=0.01,
    ),
    assigner=L(SimOTA)(radius=1.5),
    box_coder=L(GridBoxCoder)(),
    num_classes=80,
    use_l1=False,  # switched on for the last epochs by train.hooks.l1
    box_loss_weight=5.0,
    pixel_mean=[0.0, 0.0, 0.0],
    pixel_std=[1.0, 1.0, 1.0],
    input_format="BGR",
    pad_value=114,
    clip_boxes=False,
    class_agnostic_nms=False,
    test_score_thresh=0.01,  # the published AP was computed at 0.001, which adds 0.1 to 0.2
    test_nms_thresh=0.65,
    test_topk_candidates=10000,
    max_detections_per_image=1000,
)
