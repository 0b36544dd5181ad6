"""YOLOv3 + ASFF on Darknet-53, the whole network."""

from asff_d2.anchors import Anchors
from asff_d2.asff import ASFF
from asff_d2.fusion import ASFFNeck
from asff_d2.head import GuidedYOLOHead
from dense_d2.modeling.darknet import Darknet53
from dense_d2.modeling.yolov3_fpn import YOLOv3FPN

from detectron2.config import LazyCall as L

model = L(ASFF)(
    backbone=L(ASFFNeck)(
        bottom_up=L(YOLOv3FPN)(
            bottom_up=L(Darknet53)(norm="${...norm}", activation="${...activation}", freeze_at=0),
            in_features=["dark3", "dark4", "dark5"],
            norm="${..norm}",
            activation="${..activation}",
            drop_blocks=None,
        ),
        in_features=["p3", "p4", "p5"],
        out_channels=[256, 512, 1024],
        widen=dict(p3=256),
        fusion="asff",
        compress_channels=16,
        norm="SyncBN",
        activation="LeakyReLU",
    ),
    head_in_features=["p3", "p4", "p5"],
    head=L(GuidedYOLOHead)(
        in_channels="${..backbone.out_channels}",
        num_classes="${..num_classes}",
        num_priors=3,
        free_slot="${..anchors.free_slot}",
        guided_anchor=True,
        adaption=True,
        deformable_groups=4,
        rfb=False,
    ),
    anchors=L(Anchors)(
        # pixels of the network input; the last one was (373, 326) in YOLOv3, a slip of the authors' that their weights have
        priors=[
            [[10, 13], [16, 30], [33, 23]],
            [[30, 61], [62, 45], [42, 119]],
            [[116, 90], [156, 198], [121, 240]],
        ],
        strides=[8, 16, 32],
        free_slot=True,
    ),
    num_classes=80,
    iou_loss=True,
    detach_anchors=False,
    ignore_thresh=0.7,
    adjacent_ignore=None,
    label_smoothing=True,
    mixup_weight="obj",
    init_slope=0.1,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    clip_boxes=False,
    test_score_thresh=0.001,  # of the published AP; 0.01 in the authors' demo
    test_nms_thresh=0.65,
    test_topk_candidates=10000,
    max_detections_per_image=100,
)
