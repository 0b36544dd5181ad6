# VarifocalNet paper, Table 3: FCOS with ATSS. Expected box AP on COCO val2017: 39.2; scores without centerness: 38.5.
# 8 GPUs x 2 images.
from vfnet_d2.varifocal_loss import FocalLoss

from detectron2.config import LazyCall as L

from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/fcos_atss"
# not released: the raw model with the centerness branch, on the class tower like FCOS, and its weights of the box loss
model.head.update(star_conv=False, refine=False, centerness=True)
model.box_loss_weight = 2.0
model.cls_loss = L(FocalLoss)(alpha=0.25, gamma=2.0)
