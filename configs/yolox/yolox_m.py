# YOLOX-M, Table 3 and the released model zoo. Expected box AP on COCO val2017: 46.9 (paper: 46.4 on test-dev).
# 8 GPUs x 8 images.
from ..common.data.yolox import dataloader, dataset
from ..common.models.yolox import model
from ..common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/yolox_m"
model.backbone.bottom_up.update(depth=0.67, width=0.75)
