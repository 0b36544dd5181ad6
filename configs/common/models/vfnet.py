"""VFNet-R50, the whole network."""

from dense_d2.modeling.resnet import get_backbone_norm, make_resnet_stages
from vfnet_d2.atss import ATSSAssigner
from vfnet_d2.fpn import VFNetFPN
from vfnet_d2.head import VFNetHead
from vfnet_d2.varifocal_loss import VarifocalLoss
from vfnet_d2.vfnet import VFNet

from detectron2.config import LazyCall as L
from detectron2.modeling.backbone import BasicStem, ResNet

model = L(VFNet)(
    backbone=L(VFNetFPN)(
        bottom_up=L(ResNet)(
            stem=L(BasicStem)(in_channels=3, out_channels=64, norm=L(get_backbone_norm)(norm="${...stages.norm}")),
            stages=L(make_resnet_stages)(
                depth=50,
                num_groups=1,
                width_per_group=64,
                stride_in_1x1=False,
                norm="StatFrozenBN",  # scale and shift are trained, the running statistics are not
                deform_on_per_stage=[False, False, False, False],
            ),
            out_features=["res3", "res4", "res5"],
            freeze_at=2,
        ),
        in_features=["res3", "res4", "res5"],
        out_channels=256,
        norm="",
        top_in_feature="p5",
        relu_before_p7=True,
    ),
    head_in_features=["p3", "p4", "p5", "p6", "p7"],
    head=L(VFNetHead)(
        in_channels="${..backbone.out_channels}",
        feat_channels=256,
        num_convs=3,
        num_classes="${..num_classes}",
        strides=[8, 16, 32, 64, 128],
        bbox_norm="reg_denom",
        deform_last_conv=False,
        star_conv=True,
        refine=True,
        centerness=False,
        gradient_mul=0.1,
        norm="GN",
        prior_prob=0.01,
        max_exponent=None,
    ),
    assigner=L(ATSSAssigner)(topk=9, anchor_scale=8),
    cls_loss=L(VarifocalLoss)(alpha=0.75, gamma=2.0, iou_weighted=True),
    num_classes=80,
    box_loss_weight=1.5,
    refine_loss_weight=2.0,
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
    input_format="RGB",
    test_score_thresh=0.05,
    test_nms_thresh=0.6,
    test_topk_candidates=1000,  # locations of each level
    max_detections_per_image=100,
    soft_nms=False,
)
