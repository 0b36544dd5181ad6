"""RetinaNet R50-FPN, the whole network, as Detectron2's model zoo has it."""

from dense_d2.modeling.resnet import get_backbone_norm, make_resnet_stages
from dense_d2.modeling.retinanet import DenseRetinaNet

from detectron2.config import LazyCall as L
from detectron2.layers import ShapeSpec
from detectron2.modeling import FPN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.backbone import BasicStem, ResNet
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead

model = L(DenseRetinaNet)(
    backbone=L(FPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm=L(get_backbone_norm)(norm="${...stages.norm}")),
            stages=L(make_resnet_stages)(
                depth=50, num_groups=1, width_per_group=64, stride_in_1x1=True, norm="FrozenBN"
            ),
            out_features=["res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features=["res3", "res4", "res5"],
        out_channels=256,
        norm="",
        top_block=L(LastLevelP6P7)(in_channels=2048, out_channels="${..out_channels}", in_feature="res5"),
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    head=L(RetinaNetHead)(
        input_shape=[L(ShapeSpec)(channels=256)] * 5,  # one a level
        num_classes="${..num_classes}",
        num_anchors=9,
        conv_dims=[256, 256, 256, 256],
        norm="",
        prior_prob=0.01,
    ),
    anchor_generator=L(DefaultAnchorGenerator)(
        sizes=[[size, size * 2 ** (1 / 3), size * 2 ** (2 / 3)] for size in (32, 64, 128, 256, 512)],
        aspect_ratios=[0.5, 1.0, 2.0],
        strides=[8, 16, 32, 64, 128],
        offset=0.0,
    ),
    box2box_transform=L(Box2BoxTransform)(weights=[1.0, 1.0, 1.0, 1.0]),
    anchor_matcher=L(Matcher)(thresholds=[0.4, 0.5], labels=[0, -1, 1], allow_low_quality_matches=True),
    num_classes=80,
    cls_loss=None,  # the focal loss
    focal_loss_alpha=0.25,
    focal_loss_gamma=2.0,
    box_reg_loss_type="smooth_l1",
    smooth_l1_beta=0.0,
    loss_normalizer="ema",
    ignore_padding=False,
    pixel_mean=[103.530, 116.280, 123.675],
    pixel_std=[1.0, 1.0, 1.0],
    input_format="BGR",
    test_score_thresh=0.05,
    test_nms_thresh=0.5,
    test_topk_candidates=1000,  # of each level
    max_detections_per_image=100,
)
