# YOLOF paper, Table 1: R-101-C5, 1x. Expected box AP on COCO val2017: 39.8. 8 GPUs x 8 images.
from .yolof_r50_c5_1x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolof_r101_c5_1x"
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
model.backbone.stages.depth = 101
