# `make demo`: a thin YOLOF from scratch on drawn shapes, a few minutes on two cores. Box AP on the held-out shapes: 50 or more.
from ..common.data.coco import dataloader, dataset
from ..common.models.yolof_thin import model
from ..common.optim import adamw as optimizer
from ..common.schedule import warmup_multistep as lr_multiplier
from ..common.train import train, tta

train.output_dir = "output/yolof_thin_shapes"
train.max_iter = 1000
train.eval_period = 250
train.checkpointer.period = 250
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 0
dataloader.test.num_workers = 0
dataloader.train.mapper.augmentations[0].update(short_edge_length=[192], max_size=192)
dataloader.train.mapper.augmentations[2].max_shift = 16
dataloader.test.mapper.augmentations[0].update(short_edge_length=192, max_size=192)
model.head.encoder.block_dilations = [1, 2, 3, 4]
model.anchor_generator.sizes = [[24, 40, 56, 80, 112]]
optimizer.lr = 2e-3
lr_multiplier.update(milestones=[700, 900], warmup_iters=100)
