# YOLOF paper, Table 1: X-101-64x4d-C5, multi-scale training, 3x. Expected box AP on COCO val2017: 44.7,
# with tta.enabled=true 47.1 (scales as in HTC; the paper does not list them). 8 GPUs x 4 images.
# The authors released no config: the schedule is their 3x at 64 images a batch, stretched to 32.
from .yolof_x101_64x4d_c5_1x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolof_x101_64x4d_c5_ms_3x"
train.max_iter = 135000
lr_multiplier.milestones = [105000, 125000]

dataloader.train.mapper.augmentations[0].update(short_edge_length=[400, 1400], max_size=1600, sample_style="range")
