# YOLOX-S, Table 3 and the released model zoo. Expected box AP on COCO val2017: 40.5 (paper: 39.6 on test-dev).
# 8 GPUs x 8 images. The paper trains S without MixUp and with scales of 0.5 to 1.5, as Tiny (section 2.2); all released code
# trains it as L, and so does this row.
from ..common.data.yolox import dataloader, dataset
from ..common.models.yolox import model
from ..common.yolox import lr_multiplier, optimizer, train, tta

train.output_dir = "output/yolox_s"
model.backbone.bottom_up.update(depth=0.33, width=0.5)
