# YOLOX-S with ASFF on its three levels; ours, in no paper. Expected box AP on COCO val2017: unknown (YOLOX-S: 40.5).
# 8 GPUs x 8 images. model.backbone.fusion=sum, concat or none for comparison.
from asff_d2.fusion import ASFFNeck

from detectron2.config import LazyCall as L

from ..common.data.yolox import dataloader, dataset
from ..common.models.yolox import model
from ..common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/yolox_s_asff"
model.backbone.bottom_up.update(depth=0.33, width=0.5)
model.backbone = L(ASFFNeck)(
    bottom_up=model.backbone,
    in_features=["p3", "p4", "p5"],
    fusion="asff",
    compress_channels=16,
    uniform_start=False,
    norm="${.bottom_up.norm}",
    norm_eps="${.bottom_up.norm_eps}",
    norm_momentum="${.bottom_up.norm_momentum}",
    activation="${.bottom_up.activation}",
)
model.head.width = "${..backbone.bottom_up.bottom_up.width}"
model.head.depthwise = "${..backbone.bottom_up.depthwise}"
