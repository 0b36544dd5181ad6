# VarifocalNet paper, Table 5: FoveaBox, quality focal loss. Expected box AP on COCO val2017: 36.9. 4 GPUs x 4 images.
from vfnet_d2.varifocal_loss import QualityFocalLoss

from detectron2.config import LazyCall as L

from .foveabox_focal import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/foveabox_quality_focal"
model.cls_loss = L(QualityFocalLoss)(beta=2.0)
