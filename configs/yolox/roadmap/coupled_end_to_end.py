# YOLOX paper, Table 1: coupled head, end-to-end. Expected box AP on COCO val2017: 34.3.
# Starts from a Darknet-53 trained on ImageNet: train.init_checkpoint=FILE. 8 GPUs x 8 images.
from yolox_d2.one_to_one import OneToOneAssigner

from detectron2.config import LazyCall as L

from ...common.data.yolox import dataloader, dataset
from ...common.models.yolox_anchors import model
from ...common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/coupled_end_to_end"
dataloader.train.composition.strong_prob = 0.0  # flips, colour jitter and multi-scale only
dataloader.train.close_iters = 0
del train.hooks["l1"]
model.head.selector = True
model.select_assigner = L(OneToOneAssigner)(alpha=0.8, radius=1.5)
model.max_detections_per_image = 100
