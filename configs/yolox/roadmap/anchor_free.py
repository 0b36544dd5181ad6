# YOLOX paper, Table 2: + anchor-free, one positive a box. Expected box AP on COCO val2017: 42.9. 8 GPUs x 8 images.
from yolox_d2.center_assigner import CenterAssigner

from detectron2.config import LazyCall as L

from ...common.data.yolox import dataloader, dataset
from ...common.models.yolox_darknet53 import model
from ...common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/anchor_free"
dataloader.train.close_iters = 15 * 1849  # the paper's
model.assigner = L(CenterAssigner)(radius=0, ranges=[64, 128])  # "as in FCOS": the ranges are not in the paper
