# A thin VFNet from scratch for a small data set on a CPU; made for BCCD (205 training images of blood cells, 640x480).
from ..common.data.vfnet import dataloader, dataset
from ..common.models.vfnet_thin import model
from ..common.vfnet import lr_multiplier, optimizer, train, tta

train.output_dir = "output/vfnet_thin_bccd"
train.init_checkpoint = ""
train.max_iter = 1500
train.eval_period = train.checkpointer.period = 250
train.clip_grad_norm = 10.0
dataloader.train.total_batch_size = 8
dataloader.train.num_workers = dataloader.test.num_workers = 0
dataloader.train.mapper.augmentations[0].update(short_edge=[208, 272], long_edge=400)
dataloader.test.mapper.augmentations[0].update(short_edge=240, long_edge=400)
lr_multiplier.update(milestones=[1125, 1390], warmup_iters=100)
