# VarifocalNet paper, Table 5: ATSS, quality focal loss. Expected box AP on COCO val2017: 39.8. 8 GPUs x 2 images.
from vfnet_d2.varifocal_loss import QualityFocalLoss

from detectron2.config import LazyCall as L

from .atss_focal import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/atss_quality_focal"
model.cls_loss = L(QualityFocalLoss)(beta=2.0)
