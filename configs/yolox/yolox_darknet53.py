# YOLOX-Darknet53, Table 2 (+SimOTA) and the released model zoo. Expected box AP on COCO val2017: 47.7 (paper: 47.3).
# 8 GPUs x 8 images.
from ..common.data.yolox import dataloader, dataset
from ..common.models.yolox_darknet53 import model
from ..common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/yolox_darknet53"
