# YOLOX paper, Table 2: + multi positives, 3x3 cells. Expected box AP on COCO val2017: 45.0. 8 GPUs x 8 images.
from yolox_d2.center_assigner import CenterAssigner

from detectron2.config import LazyCall as L

from ...common.data.yolox import dataloader, dataset
from ...common.models.yolox_darknet53 import model
from ...common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/multi_positives"
dataloader.train.close_iters = 15 * 1849  # the paper's
model.assigner = L(CenterAssigner)(radius=1, ranges=[64, 128])
