# YOLOX paper, Table 2: + decoupled head. Expected box AP on COCO val2017: 39.6.
# Starts from a Darknet-53 trained on ImageNet: train.init_checkpoint=FILE. 8 GPUs x 8 images.
from ...common.data.yolox import dataloader, dataset
from ...common.models.yolox_anchors_decoupled import model
from ...common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/decoupled_head"
dataloader.train.composition.strong_prob = 0.0  # flips, colour jitter and multi-scale only
dataloader.train.close_iters = 0
del train.hooks["l1"]
