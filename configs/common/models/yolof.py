"""YOLOF R50-C5, the whole network."""

from dense_d2.modeling.resnet import make_resnet_stages
from yolof_d2.box_coder import CenterClampBox2BoxTransform
from yolof_d2.decoder import YOLOFDecoder
from yolof_d2.encoder import DilatedEncoder
from yolof_d2.head import YOLOFHead
from yolof_d2.uniform_matcher import UniformMatcher
from yolof_d2.yolof import YOLOF

from detectron2.config import LazyCall as L
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import BasicStem, ResNet

model = L(YOLOF)(
    backbone=L(ResNet)(
        stem=L(BasicStem)(in_channels=3, out_channels=64, norm="${..stages.norm}"),
        stages=L(make_resnet_stages)(
            depth=50, num_groups=1, width_per_group=64, stride_in_1x1=True, res5_dilation=1, norm="FrozenBN"
        ),
        out_features=["res5"],
        freeze_at=2,
    ),
    head_in_features=["res5"],
    head=L(YOLOFHead)(
        encoder=L(DilatedEncoder)(
            in_channels=2048,
            channels=512,
            block_mid_channels=128,
            block_dilations=[2, 4, 6, 8],
            shortcut=True,
            norm="BN",
            activation="ReLU",
        ),
        decoder=L(YOLOFDecoder)(
            in_channels="${..encoder.channels}",
            num_classes="${...num_classes}",
            num_anchors=5,
            cls_num_convs=2,
            reg_num_convs=4,
            norm="${..encoder.norm}",
            activation="${..encoder.activation}",
            prior_prob=0.01,
        ),
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[32, 64, 128, 256, 512]], aspect_ratios=[[1.0]], strides=[32], offset=0.0
    ),
    box2box_transform=L(CenterClampBox2BoxTransform)(center_clamp=32),
    matcher=L(UniformMatcher)(topk=4),
    num_classes=80,
    neg_ignore_thresh=0.7,
    pos_ignore_thresh=0.15,
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[1.0, 1.0, 1.0],  # of all released models, X-101 and CSP too
    input_format="BGR",
    test_score_thresh=0.05,
    test_nms_thresh=0.6,
    test_topk_candidates=1000,
    max_detections_per_image=100,
)
