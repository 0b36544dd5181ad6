# YOLOF paper, Table 2: R-50-C5, multi-scale training, 6x. Expected box AP on COCO val2017: 41.6. 8 GPUs x 8 images.
# The authors released no config: the schedule keeps their decay points, 15k and 5k iterations before the end.
from .yolof_r50_c5_1x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolof_r50_c5_ms_6x"
train.max_iter = 135000
lr_multiplier.milestones = [120000, 130000]

dataloader.train.mapper.augmentations[0].update(short_edge_length=[400, 1400], max_size=1600, sample_style="range")
