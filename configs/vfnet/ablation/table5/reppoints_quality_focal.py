# VarifocalNet paper, Table 5: RepPoints, quality focal loss. Expected box AP on COCO val2017: 39.2. 4 GPUs x 4 images.
from vfnet_d2.varifocal_loss import QualityFocalLoss

from detectron2.config import LazyCall as L

from .reppoints_focal import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/reppoints_quality_focal"
model.cls_loss = L(QualityFocalLoss)(beta=2.0)
