# YOLOX paper, Table 2: + SimOTA. Expected box AP on COCO val2017: 47.3. 8 GPUs x 8 images.
from ...common.data.yolox import dataloader, dataset
from ...common.models.yolox_darknet53 import model
from ...common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/simota"
dataloader.train.close_iters = 15 * 1849  # the paper's
