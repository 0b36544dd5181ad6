# `make demo`: a thin YOLOF from scratch on drawn shapes, a few minutes on two cores.
from ..common.data.coco import dataloader, dataset
from ..common.models.yolof_thin import model
from ..common.optim import sgd as optimizer
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
optimizer.lr = 0.03
lr_multiplier.update(milestones=[750, 920], warmup_iters=100)
