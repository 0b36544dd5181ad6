# YOLOX paper, Table 2: YOLOv3 baseline. Expected box AP on COCO val2017: 38.5.
# Starts from a Darknet-53 trained on ImageNet: train.init_checkpoint=FILE. 8 GPUs x 8 images.
from ...common.data.yolox import dataloader, dataset
from ...common.models.yolox_anchors import model
from ...common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/baseline"
dataloader.train.composition.strong_prob = 0.0  # flips, colour jitter and multi-scale only
dataloader.train.close_iters = 0
del train.hooks["l1"]
