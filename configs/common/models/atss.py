from vfnet_d2.atss import ATSSAssigner
from vfnet_d2.hosts.atss import ATSS, ATSSHead
from vfnet_d2.varifocal_loss import FocalLoss

from detectron2.config import LazyCall as L

from .vfnet import model as vfnet

# ATSS-R50. The trunk is VFNet's; the pyramid has no ReLU before P7.
model = L(ATSS)(
    backbone=vfnet.backbone,
    head_in_features=vfnet.head_in_features,
    head=L(ATSSHead)(
        in_channels="${..backbone.out_channels}",
        feat_channels=256,
        num_convs=4,
        num_classes="${..num_classes}",
        strides=[8, 16, 32, 64, 128],
        anchor_scale=8,
        delta_weights=[10.0, 10.0, 5.0, 5.0],
        norm="GN",
        prior_prob=0.01,
    ),
    assigner=L(ATSSAssigner)(topk=9, anchor_scale="${..head.anchor_scale}"),
    cls_loss=L(FocalLoss)(alpha=0.25, gamma=2.0),
    num_classes=80,
    box_loss_weight=2.0,
    pixel_mean=vfnet.pixel_mean,
    pixel_std=vfnet.pixel_std,
    input_format="RGB",
    test_score_thresh=0.05,  # of the class score alone
    test_nms_thresh=0.6,
    test_topk_candidates=1000,  # locations of each level
    max_detections_per_image=100,
)
model.backbone.relu_before_p7 = False
