from vfnet_d2.hosts.max_iou_assigner import MaxIoUAssigner
from vfnet_d2.hosts.point_assigner import PointAssigner
from vfnet_d2.hosts.reppoints import RepPoints
from vfnet_d2.hosts.reppoints_head import RepPointsHead
from vfnet_d2.varifocal_loss import FocalLoss

from detectron2.config import LazyCall as L

from .vfnet import model as vfnet

# RepPoints-R50, moments, GroupNorm in pyramid and head. The trunk is VFNet's; P6 is made of C5, without ReLU before P7.
model = L(RepPoints)(
    backbone=vfnet.backbone,
    head_in_features=vfnet.head_in_features,
    head=L(RepPointsHead)(
        in_channels="${..backbone.out_channels}",
        feat_channels=256,
        point_channels=256,
        num_convs=3,
        num_classes="${..num_classes}",
        strides=[8, 16, 32, 64, 128],
        kernel_size=3,
        gradient_mul=0.1,
        moment_mul=0.01,
        norm="GN",
        prior_prob=0.01,
    ),
    assigner=L(PointAssigner)(scale=4),
    refine_assigner=L(MaxIoUAssigner)(foreground_iou=0.5, background_iou=0.4, min_best_iou=0.0),
    cls_loss=L(FocalLoss)(alpha=0.25, gamma=2.0),
    num_classes=80,
    box_loss_weight=0.5,
    refine_loss_weight=1.0,
    smooth_l1_beta=0.11,
    box_unit=4,
    pixel_mean=vfnet.pixel_mean,
    pixel_std=vfnet.pixel_std,
    input_format="RGB",
    test_score_thresh=0.05,
    test_nms_thresh=0.5,
    test_topk_candidates=1000,  # locations of each level
    max_detections_per_image=100,
)
model.backbone.update(norm="GN", top_in_feature="res5", relu_before_p7=False)
