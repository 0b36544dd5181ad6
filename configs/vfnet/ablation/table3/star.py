# VarifocalNet paper, Table 3: + star convolution. Expected box AP on COCO val2017: 40.7. 8 GPUs x 2 images.
from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/star"
model.head.refine = False
model.box_loss_weight = 2.0  # not released; the weight of the raw model's only box loss
