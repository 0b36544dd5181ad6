# VarifocalNet paper, Table 2: gamma 3.0, alpha 1.00. Expected box AP on COCO val2017: 41.3. 8 GPUs x 2 images.
from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/gamma3_0_alpha1_00"
model.cls_loss.update(gamma=3.0, alpha=1.0)
