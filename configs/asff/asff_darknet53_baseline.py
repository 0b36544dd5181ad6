# ASFF paper, Tables 1 and 3: the baseline at 608, YOLOv3-SPP with the bag of freebies, guided anchors and the IoU loss.
# Expected box AP on COCO val2017: 38.8. 4 GPUs x 16 images.
from ..common.asff import lr_multiplier, optimizer, train, tta
from ..common.data.asff import dataloader, dataset
from ..common.models.asff import model

train.output_dir = "output/asff_darknet53_baseline"
model.backbone.fusion = "none"
