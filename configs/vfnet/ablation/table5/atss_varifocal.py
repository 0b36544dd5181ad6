# VarifocalNet paper, Table 5: ATSS, varifocal loss. Expected box AP on COCO val2017: 40.2. 8 GPUs x 2 images.
from vfnet_d2.varifocal_loss import VarifocalLoss

from detectron2.config import LazyCall as L

from .atss_focal import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/atss_varifocal"
model.cls_loss = L(VarifocalLoss)(alpha=0.75, gamma=2.0, iou_weighted=True)
