# YOLOF paper, Table 1: X-101-64x4d-C5, 1x. Expected box AP on COCO val2017: 42.2. 8 GPUs x 4 images.
from .yolof_r50_c5_1x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolof_x101_64x4d_c5_1x"
train.init_checkpoint = "catalog://ImageNetPretrained/FAIR/X-101-64x4d"
model.backbone.stages.update(depth=101, num_groups=64, width_per_group=4, stride_in_1x1=False)

dataloader.train.total_batch_size = 32
optimizer.lr = 0.06
train.max_iter = 45000
lr_multiplier.milestones = [30000, 40000]
lr_multiplier.warmup_iters = 3000
lr_multiplier.warmup_factor = 0.000334
