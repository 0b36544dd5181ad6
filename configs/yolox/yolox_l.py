# YOLOX-L, Table 3 and the released model zoo. Expected box AP on COCO val2017: 49.7 (paper: 50.0 on test-dev).
# 8 GPUs x 8 images.
from ..common.data.yolox import dataloader, dataset
from ..common.models.yolox import model
from ..common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/yolox_l"
model.backbone.bottom_up.update(depth=1.0, width=1.0)
