# VarifocalNet paper, Table 3: raw VFNet, focal loss. Expected box AP on COCO val2017: 39.0. 8 GPUs x 2 images.
from vfnet_d2.varifocal_loss import FocalLoss

from detectron2.config import LazyCall as L

from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/raw_focal"
model.head.update(star_conv=False, refine=False)
model.box_loss_weight = 2.0
model.cls_loss = L(FocalLoss)(alpha=0.25, gamma=2.0)
