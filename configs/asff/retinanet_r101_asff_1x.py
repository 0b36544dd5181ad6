# ASFF paper, Table 5: RetinaNet R-101 + ASFF. Expected box AP on COCO val2017: 40.1 in the paper, 1.0 above its baseline.
# 8 GPUs x 2 images. Nobody has confirmed the gain: see retinanet_r50_asff_1x.
from .retinanet_r50_asff_1x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/retinanet_r101_asff_1x"
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
model.backbone.bottom_up.bottom_up.stages.depth = 101
