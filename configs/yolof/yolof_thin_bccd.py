# A thin YOLOF from scratch for a small data set on a CPU; made for BCCD (205 training images of blood cells, 640x480).
from ..common.data.coco import dataloader, dataset
from ..common.models.yolof_thin import model
from ..common.optim import sgd as optimizer
from ..common.schedule import warmup_multistep as lr_multiplier
from ..common.train import train, tta

train.output_dir = "output/yolof_thin_bccd"
train.max_iter = 1600
train.eval_period = 200
train.checkpointer.period = 200
train.clip_grad_norm = 10.0
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = 0
dataloader.test.num_workers = 0
dataloader.train.mapper.augmentations[0].update(short_edge_length=[208, 240, 272], max_size=400)
dataloader.train.mapper.augmentations[2].max_shift = 16
dataloader.test.mapper.augmentations[0].update(short_edge_length=240, max_size=400)
optimizer.lr = 0.02
lr_multiplier.update(milestones=[1200, 1480], warmup_iters=200)
