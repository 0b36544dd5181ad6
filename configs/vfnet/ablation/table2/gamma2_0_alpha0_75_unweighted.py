# VarifocalNet paper, Table 2: gamma 2.0, alpha 0.75, foreground not weighted by the IoU.
# Expected box AP on COCO val2017: 41.2. 8 GPUs x 2 images.
from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/gamma2_0_alpha0_75_unweighted"
model.cls_loss.update(gamma=2.0, alpha=0.75, iou_weighted=False)
