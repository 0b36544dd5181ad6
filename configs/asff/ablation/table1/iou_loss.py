# ASFF paper, Table 1, row 4: bag of freebies and IoU loss. Expected box AP on COCO val2017: 37.6. 4 GPUs x 16 images.
from ...asff_darknet53_baseline import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/iou_loss"
model.head.guided_anchor = False
model.anchors.free_slot = False
