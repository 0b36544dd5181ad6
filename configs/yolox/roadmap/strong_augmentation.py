# YOLOX paper, Table 2: + strong augmentation, from scratch. Expected box AP on COCO val2017: 42.0. 8 GPUs x 8 images.
from ...common.data.yolox import dataloader, dataset
from ...common.models.yolox_anchors_decoupled import model
from ...common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/strong_augmentation"
dataloader.train.close_iters = 15 * 1849  # the paper's
