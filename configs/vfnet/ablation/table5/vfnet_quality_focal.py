# VarifocalNet paper, Table 5: VFNet, quality focal loss. Expected box AP on COCO val2017: 41.1. 8 GPUs x 2 images.
from vfnet_d2.varifocal_loss import QualityFocalLoss

from detectron2.config import LazyCall as L

from ....common.data.vfnet import dataloader, dataset
from ....common.models.vfnet import model
from ....common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/vfnet_quality_focal"
model.cls_loss = L(QualityFocalLoss)(beta=2.0)
