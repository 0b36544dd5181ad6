# ASFF paper, Table 1, row 2: YOLOv3 with the bag of freebies. Expected box AP on COCO val2017: 37.2 (README: 37.0).
# 4 GPUs x 16 images. Three fixed anchors a cell; the head has no deformable convolution then.
from ...asff_darknet53_baseline import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/bag_of_freebies"
model.head.guided_anchor = False
model.anchors.free_slot = False
model.iou_loss = False
