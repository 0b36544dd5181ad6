# VarifocalNet paper, Table 2: gamma 1.0, alpha 0.50. Expected box AP on COCO val2017: 41.2. 8 GPUs x 2 images.
from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/gamma1_0_alpha0_50"
model.cls_loss.update(gamma=1.0, alpha=0.5)
