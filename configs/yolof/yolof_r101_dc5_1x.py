# YOLOF paper, Table 9: R-101-DC5, 1x. Expected box AP on COCO val2017: 40.5. 8 GPUs x 4 images.
from .yolof_r50_dc5_1x import dataloader, dataset, lr_multiplier, model, optimizer, train, tta

train.output_dir = "output/yolof_r101_dc5_1x"
train.init_checkpoint = "detectron2://ImageNetPretrained/MSRA/R-101.pkl"
model.backbone.stages.depth = 101

dataloader.train.total_batch_size = 32
optimizer.lr = 0.06
train.max_iter = 45000
lr_multiplier.milestones = [30000, 40000]
lr_multiplier.warmup_iters = 3000
lr_multiplier.warmup_factor = 0.000334
