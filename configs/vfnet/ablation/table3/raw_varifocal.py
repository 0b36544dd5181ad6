# VarifocalNet paper, Table 3: raw VFNet, varifocal loss. Expected box AP on COCO val2017: 40.1. 8 GPUs x 2 images.
from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/raw_varifocal"
model.head.update(star_conv=False, refine=False)
model.box_loss_weight = 2.0
