# VarifocalNet paper, Table 5: RetinaNet, quality focal loss. Expected box AP on COCO val2017: 37.3. 4 GPUs x 4 images.
from vfnet_d2.varifocal_loss import QualityFocalLoss

from detectron2.config import LazyCall as L

from .retinanet_focal import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/retinanet_quality_focal"
model.cls_loss = L(QualityFocalLoss)(beta=2.0)
