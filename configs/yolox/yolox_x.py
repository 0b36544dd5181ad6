# YOLOX-X, Table 3 and the released model zoo. Expected box AP on COCO val2017: 51.1 (paper: 51.2 on test-dev).
# 8 GPUs x 8 images.
from ..common.data.yolox import dataloader, dataset
from ..common.models.yolox import model
from ..common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/yolox_x"
model.backbone.bottom_up.update(depth=1.33, width=1.25)
