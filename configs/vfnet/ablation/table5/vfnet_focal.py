# VarifocalNet paper, Table 5: VFNet, focal loss. Expected box AP on COCO val2017: 40.0. 8 GPUs x 2 images.
from vfnet_d2.varifocal_loss import FocalLoss

from detectron2.config import LazyCall as L

from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/vfnet_focal"
model.cls_loss = L(FocalLoss)(alpha=0.25, gamma=2.0)
