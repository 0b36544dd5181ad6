# ASFF paper, Table 5: RetinaNet R-101, the baseline. Expected box AP on COCO val2017: 39.1 in the paper, but that is the
# RetinaNet paper's on test-dev; 38.5 on maskrcnn-benchmark, 40.4 in Detectron2's model zoo after 3x. 8 GPUs x 2 images.
from .retinanet_r50_1x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/retinanet_r101_1x"
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
model.backbone.bottom_up.stages.depth = 101
