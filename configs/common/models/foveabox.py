from vfnet_d2.hosts.fovea_assigner import FoveaAssigner
from vfnet_d2.hosts.foveabox import FoveaBox, FoveaHead
from vfnet_d2.varifocal_loss import FocalLoss

from detectron2.config import LazyCall as L

from .vfnet import model as vfnet

# FoveaBox-R50. The trunk is VFNet's; the pyramid's P6 is made of C5, without ReLU before P7.
model = L(FoveaBox)(
    backbone=vfnet.backbone,
    head_in_features=vfnet.head_in_features,
    head=L(FoveaHead)(
        in_channels="${..backbone.out_channels}",
        feat_channels=256,
        num_convs=4,
        num_classes="${..num_classes}",
        strides=[8, 16, 32, 64, 128],
        base_lengths=[16, 32, 64, 128, 256],
        prior_prob=0.01,
    ),
    assigner=L(FoveaAssigner)(
        scale_ranges=[[1, 64], [32, 128], [64, 256], [128, 512], [256, 2048]],
        sigma=0.4,
    ),
    cls_loss=L(FocalLoss)(alpha=0.4, gamma=1.5),
    num_classes=80,
    box_loss_weight=1.0,
    smooth_l1_beta=0.11,
    pixel_mean=vfnet.pixel_mean,
    pixel_std=vfnet.pixel_std,
    input_format="RGB",
    test_score_thresh=0.05,
    test_nms_thresh=0.5,
    test_topk_candidates=1000,  # locations of each level
    max_detections_per_image=100,
)
model.backbone.update(top_in_feature="res5", relu_before_p7=False)
