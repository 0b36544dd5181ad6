# ASFF paper, Table 2: adjacent levels ignore the middle 0.5 of an object's sides. Expected box AP on COCO val2017: 37.5.
# 4 GPUs x 16 images. No code was released; what is ignored is the objectness of all slots that are no positives.
from ...asff_darknet53_baseline import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/ignore_50_percent"
model.adjacent_ignore = 0.5
