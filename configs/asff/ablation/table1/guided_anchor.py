# ASFF paper, Table 1, row 3: bag of freebies and guided anchors. Expected box AP on COCO val2017: 38.2.
# 4 GPUs x 16 images. The paper does not say whether the free slot belongs to this row; here it does.
from ...asff_darknet53_baseline import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/guided_anchor"
model.iou_loss = False
