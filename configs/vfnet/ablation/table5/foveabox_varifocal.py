# VarifocalNet paper, Table 5: FoveaBox, varifocal loss. Expected box AP on COCO val2017: 37.2. 4 GPUs x 4 images.
from vfnet_d2.varifocal_loss import VarifocalLoss

from detectron2.config import LazyCall as L

from .foveabox_focal import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/foveabox_varifocal"
model.cls_loss = L(VarifocalLoss)(alpha=0.75, gamma=2.0, iou_weighted=True)
