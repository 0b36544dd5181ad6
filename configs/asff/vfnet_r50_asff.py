# VFNet-R50 with ASFF on P3 to P5; ours, in no paper. Expected box AP on COCO val2017: unknown (VFNet-R50, 1x: 41.6).
# 8 GPUs x 2 images. Group norm, as in VFNet's head, because two images are too few for batch norm; the 16 channels of a weight
# make two groups. P6 and P7 come from P5 before the fusion. model.backbone.fusion=sum, concat or none for comparison.
from asff_d2.fusion import ASFFNeck

from detectron2.config import LazyCall as L

from ..common.data.vfnet import dataloader, dataset
from ..common.models.vfnet import model
from ..common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/vfnet_r50_asff"
model.backbone = L(ASFFNeck)(
    bottom_up=model.backbone,
    in_features=["p3", "p4", "p5"],
    fusion="asff",
    compress_channels=16,
    compress_equal=True,
    uniform_start=False,
    norm="GN",
    activation="ReLU",
)
model.head.in_channels = "${..backbone.bottom_up.out_channels}"
